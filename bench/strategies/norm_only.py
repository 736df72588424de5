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

    The whole backbone is in eval mode: batch norms normalise by their pretrained running
    statistics, which stay bit by bit, since they are no parameters. In train mode the frozen layers
    between them cannot adapt to the noise of a batch's statistics: on Lite0 and 800 digits of
    mnist-5k (three epochs, 64 pixels) val accuracy was 0.53 in train mode and 0.93 in eval mode.

    Source: Frankle et al., 2021, Training BatchNorm and Only BatchNorm (there from random weights,
    hence in train mode); layer, group and RMS norms are treated alike.
    """

    Spec: ClassVar[type[StrategySpec]] = NormOnlySpec
    summary: ClassVar[str] = (
        "trains scale and shift of the normalisation layers with a new head, at most a few percent "
        "of all parameters: nearly the time of full; for many variants of one backbone to keep"
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
        names = norm_names(task.backbone.module)
        if not names:
            raise StrategyError(
                f"norm_only: {task.backbone.info.name} has no normalisation layer with parameters. "
                "Use bias_only, partial or lora, or leave the pair out with exclude."
            )
        norms = (Stage("norms", (), names),)
        recipe = Recipe(stages_of=lambda setting: norms, without_prefix="norms train in all of it")
        return adapt_by_gradient(task, spec, recipe)


def norm_names(module: nn.Module) -> tuple[str, ...]:
    """Return the names of scale and shift of every normalisation layer, in order.

    The layers are known by their class's name, since libraries have norms of their own; blocks that
    are free of norms say so in theirs.
    """
    return tuple(
        f"{path}.{name}" if path else name
        for path, part in module.named_modules()
        if "norm" in type(part).__name__.lower().replace("normfree", "")
        for name, _ in part.named_parameters(recurse=False)
    )
