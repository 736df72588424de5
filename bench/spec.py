"""Suite, cell and strategy as frozen models, also the JSON Schema of the YAML; knows no files."""

import re
from enum import StrEnum
from fnmatch import fnmatchcase
from itertools import product
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

T = TypeVar("T")
Grid = Annotated[tuple[T, ...], Field(min_length=1)]
"""Values tried inside one cell, chosen on val; such a field is typed ``T | Grid[T]``."""

_OFF = {"mixup": 0.0, "cutmix": 0.0, "class_weights": "none"}
"""Fields of training that came later, with the values under which they do nothing."""
_SEED_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")
_MAX_SEEDS = 10_000
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def grid_values(field: T | tuple[T, ...]) -> tuple[T, ...]:
    """Return the values of a field typed ``T | Grid[T]``, one or several."""
    return field if isinstance(field, tuple) else (field,)


def parse_duration(value: Any) -> Any:
    """Return seconds for ``90``, ``90s``, ``2h`` or ``1h30m``.

    Raises:
        ValueError: The text is not a duration.
    """
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value.strip())
    if not match or not any(match.groups()):
        raise ValueError(f"'{value}' is not a duration; write 90s, 15m, 2h or 1h30m")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def parse_seed_range(value: Any) -> Any:
    """Return ``0..9`` as the whole numbers from 0 to 9, both included; a list as it is.

    Raises:
        ValueError: The text is not a range, is empty, or has more than 10,000 seeds.
    """
    if not isinstance(value, str):
        return value
    match = _SEED_RANGE.fullmatch(value.strip())
    if not match:
        raise ValueError(
            f"'{value}' is not a range of seeds; write 0..9 for ten of them, or a list"
        )
    first, last = (int(part) for part in match.groups())
    if not first <= last < first + _MAX_SEEDS:
        raise ValueError(f"'{value}' must go up, over at most {_MAX_SEEDS} seeds")
    return tuple(range(first, last + 1))


Seconds = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]


class Frozen(BaseModel):
    """A value: immutable, comparable, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class _Named(Frozen):
    """A mapping with a name, for which the bare name may stand; numbers are finite."""

    model_config = ConfigDict(allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data


class Numerics(StrEnum):
    """The policy asked for; `auto` measures and keeps the fastest that agrees with fp32."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class BackboneSpec(_Named):
    """A pretrained feature extractor as the suite names it.

    Attributes:
        name: ``source/model``: ``timm/resnet50.a1_in1k``, ``torchvision/resnet50@IMAGENET1K_V2``.
        weights: ``random`` is the control that is trained from scratch, always labelled as such.
        checkpoint: A local file of weights to load instead of the source's own.
        revision: The hub revision (branch, tag or commit) to load.
        trust_remote_code: Allow code from the hub repository to run.
        mean: Per-channel mean that replaces the backbone's own; one number stands for all three.
        std: Likewise the standard deviation.
    """

    name: str
    weights: Literal["pretrained", "random"] = "pretrained"
    checkpoint: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    mean: float | tuple[float, float, float] | None = None
    std: PositiveFloat | tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None

    @property
    def label(self) -> str:
        """The name in tables: control and checkpoint are part of it."""
        if self.weights == "random":
            return f"{self.name} (random)"
        if self.checkpoint:
            return f"{self.name} ({self.checkpoint.rsplit('/', 1)[-1]})"
        return self.name if self.revision is None else f"{self.name} ({self.revision})"


class DatasetSpec(_Named):
    """Labelled examples as the suite names them.

    Attributes:
        name: ``digits``, ``torchvision/Flowers102``, ``folder:~/photos``, …
        image_size: Height and width in pixels; wins over the suite's.
        train_examples: Train and val together are cut to this many (80 : 20), stratified.
        shots: Train examples per class; a list expands into cells.
        max_corrupt_fraction: Share of unreadable examples above which the dataset is refused.
    """

    name: str
    image_size: int | None = Field(default=None, ge=8, le=4096)
    train_examples: int | None = Field(default=None, ge=2)
    shots: PositiveInt | Grid[PositiveInt] | None = None
    max_corrupt_fraction: float = Field(default=0.01, ge=0, le=1)

    @property
    def label(self) -> str:
        """The name in tables; shots are part of it since they make another task."""
        return self.name if self.shots is None else f"{self.name} ({self.shots} shots)"

    def per_shots(self, default: int | tuple[int, ...] | None) -> tuple[Self, ...]:
        """Return one dataset per number of shots; where it sets none, of the suite's default."""
        shots = default if self.shots is None else self.shots
        counts = shots if isinstance(shots, tuple) else (shots,)
        return tuple(self.model_copy(update={"shots": count}) for count in counts)


class StrategySpec(_Named):
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

    @model_serializer(mode="wrap")
    def _without_what_is_off(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is off and came later: keys and labels of cells from before it stay."""
        values: dict[str, Any] = handler(self)
        return {key: value for key, value in values.items() if _OFF.get(key) != value}


def _fits(pattern: str, *texts: str) -> bool:
    return any(fnmatchcase(text, pattern) for text in texts)


class Exclude(Frozen):
    """A glob per axis; a cell that matches all those given is left out of the sweep."""

    backbone: str = "*"
    dataset: str = "*"
    strategy: str = "*"

    @model_validator(mode="after")
    def _not_everything(self) -> Self:
        if (self.backbone, self.dataset, self.strategy) == ("*", "*", "*"):
            raise ValueError("an empty exclude would leave out every cell")
        return self

    def matches(self, backbone: BackboneSpec, dataset: DatasetSpec, strategy: StrategySpec) -> bool:
        """Return whether every glob matches its axis, by name or by label; case counts."""
        return (
            _fits(self.backbone, backbone.name, backbone.label)
            and _fits(self.dataset, dataset.name, dataset.label)
            and _fits(self.strategy, strategy.name)
        )


class Limits(Frozen):
    """What a sweep may cost; none of it changes a number that is measured.

    Attributes:
        cell_timeout: Wall seconds of one cell, after which its status is ``timeout``.
        total_time: Wall seconds of the sweep, after which no cell is started.
        host_memory: Bytes a cell may hold above its floor at start; above, its status is ``oom``.
        profile_time: Wall seconds spent measuring speed and memory, per pass.
    """

    cell_timeout: Seconds = 7200.0
    total_time: Seconds | None = None
    host_memory: ByteSize | None = None
    profile_time: Seconds = 3.0


class Suite(Frozen):
    """What to sweep and under which protocol: the YAML file, resolved.

    Attributes:
        split_seed: Fixes the test split, the same for every seed.
        seeds: Each draws val, shots, head initialisation, data order and augmentation: ten draws
            of few shots are ``0..9``.
        compile: Also try passes compiled by `torch.compile`; kept only where more than 5% faster.
    """

    TITLE: ClassVar[str] = "bench suite"

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)
    backbones: tuple[BackboneSpec, ...] = Field(min_length=1)
    datasets: tuple[DatasetSpec, ...] = Field(min_length=1)
    strategies: tuple[SerializeAsAny[StrategySpec], ...] = Field(min_length=1)
    image_size: int | None = Field(default=None, ge=8, le=4096)
    split_seed: int = Field(default=0, ge=0)
    seeds: Annotated[
        tuple[Annotated[int, Field(ge=0)], ...],
        BeforeValidator(parse_seed_range),
    ] = Field(default=(0,), min_length=1)
    shots: PositiveInt | Grid[PositiveInt] | None = None
    numerics: Numerics = Numerics.AUTO
    compile: bool = False
    exclude: tuple[Exclude, ...] = ()
    limits: Limits = Limits()


class Cell(Frozen):
    """One backbone x dataset x strategy x seed, fully resolved: all that a child needs to know.

    Attributes:
        image_size: Height and width in pixels; None is the backbone's own.
        compile: Whether compiled passes are tried too.
    """

    suite: str
    backbone: BackboneSpec
    dataset: DatasetSpec
    strategy: SerializeAsAny[StrategySpec]
    seed: int = 0
    split_seed: int = 0
    image_size: int | None = None
    numerics: Numerics = Numerics.AUTO
    compile: bool = False

    @property
    def label(self) -> str:
        """One line for progress and messages."""
        parts = (self.backbone.label, self.dataset.label, self.strategy.name, f"seed {self.seed}")
        return " · ".join(parts)

    def canonical(self) -> dict[str, Any]:
        """Return the JSON value of all that can change the numbers; the suite's name cannot.

        A cell that does not compile is what it was before cells could.
        """
        left_out = {"suite"} if self.compile else {"suite", "compile"}
        return self.model_dump(mode="json", exclude=left_out)


class Job(Frozen):
    """A cell with what its child needs to run it; none of it can change what is measured.

    Attributes:
        run_id: The run in the store that the record belongs to.
        run_scope: Names the run among all stores: scope of features, prefix activations, profiles.
        request_key: The parent's cheap key, see `Record`.
        known_keys: Keys the run already holds as ``ok``: the child stops when it meets its own.
        device: ``cpu`` or ``cuda:N``.
        num_threads: CPU threads of the child.
        cache_dir: Root of the artifact cache.
        project_dir: Folder the suite lives in, whose git revision is recorded.
        plans: ``forward`` or ``train`` -> JSON of the numerics plan to run that pass by, see
            `bench.record.NumericsPlan`.
    """

    cell: Cell
    run_id: int
    run_scope: str
    request_key: str
    known_keys: frozenset[str] = frozenset()
    device: str = "cpu"
    num_threads: int = 1
    cache_dir: str = ""
    project_dir: str = "."
    plans: dict[str, str] = Field(default_factory=dict)
    limits: Limits = Limits()
