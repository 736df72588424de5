"""`bias_only`: the bias terms of a backbone and a new head train; it knows no loop and no data."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import PositiveFloat

from bench.errors import StrategyError
from bench.interfaces import Adapted, Stage, Task
from bench.spec import Grid, StrategySpec, TrainingSpec
from bench.strategies.stepping import SteppingStrategy

if TYPE_CHECKING:
    from torch import nn


class BiasOnlySpec(TrainingSpec):
    """Fields of `bias_only`; few parameters take a higher rate than all of them."""

    name: str = "bias_only"
    learning_rate: PositiveFloat | Grid[PositiveFloat] = 3e-3


class BiasOnly(SteppingStrategy):
    """Train every bias term, those of norms included, and the head.

    The whole backbone is in eval mode: batch norms keep their running statistics, bit by bit, and
    only their shift moves; there is no dropout.

    Source: Ben Zaken et al., 2022, BitFit, section 3.
    """

    Spec: ClassVar[type[StrategySpec]] = BiasOnlySpec
    summary: ClassVar[str] = (
        "trains the bias terms with a new head, about 0.1% of a transformer: nearly the time of "
        "full, next to no memory for the optimiser; for many variants of one backbone to keep"
    )

    def adapt(self, task: Task, spec: StrategySpec) -> Adapted:
        """Return the backbone with its biases trained; see `Strategy.adapt`.

        Raises:
            StrategyError: The backbone has no bias term.
        """
        from bench.strategies.freeze import require_trainable
        from bench.strategies.gradient import Recipe, adapt_by_gradient

        assert isinstance(spec, BiasOnlySpec)
        require_trainable(task.backbone, spec.name)
        names = bias_names(task.backbone.module)
        if not names:
            raise StrategyError(
                f"bias_only: {task.backbone.info.name} has no bias terms. Use norm_only, partial "
                "or lora, or leave the pair out with exclude."
            )
        biases = (Stage("biases", (), names),)
        recipe = Recipe(
            stages_of=lambda setting: biases, without_prefix="biases train in all of it"
        )
        return adapt_by_gradient(task, spec, recipe)


def bias_names(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the bias terms, in order: ``…bias``, also ``in_proj_bias``, ``q_bias``.

    Tables of relative positions are called a bias and are none: they are indexed, not added to
    every output alike.
    """
    return tuple(name for name, _ in module.named_parameters() if name.endswith("bias"))
