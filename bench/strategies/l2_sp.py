"""`l2_sp`: everything trains, pulled towards the pretrained weights; it knows no loop, no data."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

from pydantic import NonNegativeFloat, PositiveFloat

from bench.interfaces import Adapted, Task
from bench.spec import Grid, StrategySpec, TrainingSpec
from bench.strategies.stepping import SteppingStrategy

if TYPE_CHECKING:
    from bench.strategies.anchor import Anchor
    from bench.strategies.rule import StepRule


class L2SpSpec(TrainingSpec):
    """Fields of `l2_sp`.

    Attributes:
        alpha: Strength of alpha / 2 * ||w - w0||^2 over the backbone's parameters w, whose
            pretrained values are w0. Under AdamW it is part of the gradient that is scaled, as an
            L2 penalty is, where the paper has SGD with momentum.
        beta: Strength of beta / 2 * ||v||^2 over the head's parameters v.
        weight_decay: 0: the penalty stands in its place.
    """

    name: str = "l2_sp"
    learning_rate: PositiveFloat | Grid[PositiveFloat] = 3e-4
    weight_decay: NonNegativeFloat | Grid[NonNegativeFloat] = 0.0
    alpha: NonNegativeFloat | Grid[NonNegativeFloat] = 0.01
    beta: NonNegativeFloat | Grid[NonNegativeFloat] = 0.01


class L2Sp(SteppingStrategy):
    """Fine-tune everything with a penalty on the distance from the pretrained weights.

    The losses of the curve and of val are without the penalty.

    Source: Li et al., 2018, Explicit Inductive Bias for Transfer Learning with Convolutional
    Networks, section 3 (L2-SP).
    """

    Spec: ClassVar[type[StrategySpec]] = L2SpSpec
    summary: ClassVar[str] = (
        "trains the whole backbone with a penalty on the distance from its pretrained weights: the "
        "cost of full and one more copy of the weights; for data close to the pretraining data"
    )

    def adapt(self, task: Task, spec: StrategySpec) -> Adapted:
        """Return the backbone trained whole under the penalty; see `Strategy.adapt`."""
        from bench.strategies.anchor import Anchor
        from bench.strategies.freeze import require_trainable
        from bench.strategies.gradient import Recipe, adapt_by_gradient

        assert isinstance(spec, L2SpSpec)
        require_trainable(task.backbone, spec.name)
        anchor = Anchor()
        recipe = Recipe(
            rule_of=lambda setting: _rule(anchor, setting),
            attach=anchor.hold,
            deploy=anchor.release,
            resume=anchor.renew,
        )
        return adapt_by_gradient(task, spec, recipe)


def _rule(anchor: Anchor, setting: TrainingSpec) -> StepRule:
    from bench.strategies.rule import StepRule

    assert isinstance(setting, L2SpSpec)
    assert isinstance(setting.alpha, float) and isinstance(setting.beta, float)
    return StepRule(add_gradients=partial(anchor.add_gradients, setting.alpha, setting.beta))
