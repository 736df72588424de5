"""`lp_ft`: the linear probe first, then everything trains from its head; knows no loop, no data."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveFloat

from bench.interfaces import Adapted, Stage, Task
from bench.spec import Grid, StrategySpec, TrainingSpec
from bench.strategies.stepping import SteppingStrategy


class LpFtSpec(TrainingSpec):
    """Fields of `lp_ft`.

    The default rate is a third of `full`'s: the head is right already, and what the method is for
    is to move the features little.
    """

    name: str = "lp_ft"
    learning_rate: PositiveFloat | Grid[PositiveFloat] = 1e-4
    head_init: Literal["probe"] = "probe"


class LpFt(SteppingStrategy):
    """Fine-tune everything from the head that the linear probe found.

    A head that is wrong at first sends gradients into the backbone that distort its features
    before it has learned anything; one that is right does not. The probe's strength is chosen on
    val, as by `linear_probe`.

    The backbone is in eval mode while its weights train: the head was found on features under the
    pretrained running statistics of batch norms. Following each batch's own instead moves the
    features away from it before any weight has moved: on Lite0 and 400 images of mnist-5k val
    accuracy fell to 0.05 at a learning rate of 1e-9.

    Source: Kumar et al., 2022, Fine-Tuning can Distort Pretrained Features and Underperform
    Out-of-Distribution, section 4.
    """

    Spec: ClassVar[type[StrategySpec]] = LpFtSpec
    summary: ClassVar[str] = (
        "linear probe first, then the whole backbone trains from that head: the cost of full and "
        "one forward pass more; for little data, and for test data unlike train"
    )

    def adapt(self, task: Task, spec: StrategySpec) -> Adapted:
        """Return the backbone trained whole from the probe; see `Strategy.adapt`."""
        from bench.strategies.freeze import require_trainable
        from bench.strategies.gradient import Recipe, adapt_by_gradient

        assert isinstance(spec, LpFtSpec)
        require_trainable(task.backbone, spec.name)
        names = tuple(name for name, _ in task.backbone.module.named_parameters())
        weights = (Stage("weights", (), names),)
        recipe = Recipe(stages_of=lambda setting: weights, without_prefix="all weights train")
        return adapt_by_gradient(task, spec, recipe)
