"""How a backbone is adapted, as a suite says it; each strategy's own file has its own fields."""

from itertools import product
from typing import Any, ClassVar, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from bench.spec.value import Grid, Named

_OFF = {"mixup": 0.0, "cutmix": 0.0, "class_weights": "none"}
"""Fields of training that came later, with the values under which they do nothing."""


class StrategySpec(Named):
    """How a backbone is adapted; each strategy's own file holds its model with its fields.

    This base keeps unknown fields, so that a record of a strategy no longer installed can be read.
    A strategy's own model forbids them. A tuple in a field is a grid inside the cell.

    Attributes:
        from_random: Whether it trains from random weights: its cells have no others.
    """

    from_random: ClassVar[bool] = False

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str

    def amendment(self) -> str:
        """Return what changed in the meaning of these very settings since the strategy's version.

        Part of a cell's key, so that a change to one option sets no other cell apart; empty where
        nothing did.
        """
        return ""

    def only_for_images(self) -> tuple[str, ...]:
        """Return the fields that are on and that mean nothing for texts and clips."""
        return ()

    def grid_points(self) -> tuple[Self, ...]:
        """Return one spec per point of the grid, in the order of the fields."""
        values = self.model_dump()
        grids = {key: value for key, value in values.items() if isinstance(value, tuple)}
        return tuple(
            self.model_copy(update=dict(zip(grids, point, strict=True)))
            for point in product(*grids.values())
        )


class TrainingSpec(StrategySpec):
    """Fields shared by every strategy that takes gradient steps.

    Attributes:
        epochs: Passes over train; the best by val is kept.
        batch_size: Examples per optimiser step.
        learning_rate: Peak rate.
        weight_decay: Decoupled for AdamW, L2 for SGD; not applied to biases and norms.
        momentum: For SGD.
        schedule: After the warm-up: cosine to zero, or constant.
        warmup_fraction: Share of all steps over which the rate rises from zero.
        label_smoothing: Mass moved from the true class to all classes.
        clip_norm: Largest global gradient norm; None clips nothing.
        augmentation: Batched and per sample, on train only.
        mixup: Alpha of the Beta distribution from which the share is drawn in which two images of
            a batch, and their labels, are blended; 0 is off. Source: Zhang et al., 2018.
        cutmix: Alpha for cutting a rectangle out of one image and filling it from another, labels
            mixed by area; 0 is off. With `mixup` on too, each batch takes one of the two at even
            odds. Source: Yun et al., 2019.
        head_init: ``zeros``, or ``probe``: a linear probe's solution on the same features, not
            standardised.
        class_weights: ``balanced`` weighs the loss of an example by N / (k * n_c), for n_c of N
            train examples of its class and k classes: each class counts the same. What val chooses
            by is not weighted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=5, ge=1, le=10_000)
    batch_size: PositiveInt | Grid[PositiveInt] = 64
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: PositiveFloat | Grid[PositiveFloat] = 1e-3
    weight_decay: NonNegativeFloat | Grid[NonNegativeFloat] = 0.01
    momentum: float = Field(default=0.9, ge=0, lt=1)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    clip_norm: float | None = Field(default=1.0, gt=0)
    augmentation: Literal["none", "flip_crop", "strong"] = "none"
    mixup: NonNegativeFloat = 0.0
    cutmix: NonNegativeFloat = 0.0
    head_init: Literal["zeros", "probe"] = "zeros"
    class_weights: Literal["none", "balanced"] = "none"

    def amendment(self) -> str:
        """Return that the probe which training goes on from is no longer standardised."""
        return " plain probe" if self.head_init == "probe" else ""

    def only_for_images(self) -> tuple[str, ...]:
        """Return which of augmentation and mixing are on."""
        named = ("augmentation", "mixup", "cutmix")
        return tuple(name for name in named if getattr(self, name) not in ("none", 0))

    @model_serializer(mode="wrap")
    def _without_what_is_off(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is off and came later: keys and labels of cells from before it stay."""
        values: dict[str, Any] = handler(self)
        return {key: value for key, value in values.items() if _OFF.get(key) != value}
