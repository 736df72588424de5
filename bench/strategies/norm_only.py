"""`norm_only`: the normalisation layers and a new head train; it knows no loop and no data."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import PositiveFloat

from bench.errors import StrategyError
from bench.interfaces import Adapted, Stage, Task
from bench.spec import Grid, StrategySpec, TrainingSpec
from bench.strategies.stepping import SteppingStrategy

if TYPE_CHECKING:
    from torch import nn


class NormOnlySpec(TrainingSpec):
    """Fields of `norm_only`; few parameters take a higher rate than all of them."""

    name: str = "norm_only"
    learning_rate: PositiveFloat | Grid[PositiveFloat] = 3e-3


class NormOnly(SteppingStrategy):
    """Train scale and shift of every normalisation layer, and the head.

    These layers are in train mode: batch norms normalise by the batch and their running statistics
    follow. Everything else is frozen in eval mode.

    Source: Frankle et al., 2021, Training BatchNorm and Only BatchNorm (there from random weights);
    layer, group and RMS norms are treated alike.
    """

    Spec: ClassVar[type[StrategySpec]] = NormOnlySpec
    summary: ClassVar[str] = (
        "trains scale and shift of the normalisation layers with a new head, at most a few percent of "
        "all parameters: nearly the time of full; for many variants of one backbone to keep"
    )

    def adapt(self, task: Task, spec: StrategySpec) -> Adapted:
        """Return the backbone with its norms trained; see `Strategy.adapt`.

        Raises:
            StrategyError: The backbone has no such layer with parameters.
        """
        from bench.strategies.freeze import require_trainable
        from bench.strategies.gradient import Recipe, adapt_by_gradient

        assert isinstance(spec, NormOnlySpec)
        require_trainable(task.backbone, spec.name)
        paths = norm_paths(task.backbone.module)
        if not paths:
            raise StrategyError(
                f"norm_only: {task.backbone.info.name} has no normalisation layer with parameters. "
                "Use bias_only, partial or lora, or leave the pair out with exclude."
            )
        norms = (Stage("norms", paths),)
        recipe = Recipe(stages_of=lambda setting: norms, without_prefix="its norms train")
        return adapt_by_gradient(task, spec, recipe)


def norm_paths(module: nn.Module) -> tuple[str, ...]:
    """Return the paths of the normalisation layers that have parameters of their own, in order.

    They are known by their class's name, since libraries have layer and RMS norms of their own.
    """
    return tuple(
        path
        for path, part in module.named_modules()
        if "norm" in type(part).__name__.lower()
        and next(part.parameters(recurse=False), None) is not None
    )
