"""`gradual_unfreeze`: with every epoch more stages train, from the top; knows no loop, no data."""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveFloat, PositiveInt

from bench.interfaces import Adapted, Stage, Task
from bench.spec import Grid, StrategySpec, TrainingSpec
from bench.strategies.stepping import SteppingStrategy


class GradualUnfreezeSpec(TrainingSpec):
    """Fields of `gradual_unfreeze`.

    Attributes:
        stages_per_epoch: How many stages more train in each epoch after the first, which trains
            the head alone. With few epochs the lowest stages stay frozen; what trains at all is
            in the record.
    """

    name: str = "gradual_unfreeze"
    learning_rate: PositiveFloat | Grid[PositiveFloat] = 1e-3
    stages_per_epoch: PositiveInt = 1


class GradualUnfreeze(SteppingStrategy):
    """Train the head in the first epoch, and one stage more from the top in each after it.

    One optimiser and one schedule run over all epochs; a stage that is still frozen is in eval
    mode, without gradient and without decay. The profile's step is that of the last epoch.

    Source: Howard & Ruder, 2018, Universal Language Model Fine-tuning, section 3.3 (gradual
    unfreezing; its slanted rates are the warm-up and schedule, its discriminative rates are
    `layer_decay`).
    """

    Spec: ClassVar[type[StrategySpec]] = GradualUnfreezeSpec
    summary: ClassVar[str] = (
        "trains the head, then one stage more per epoch from the top: less time than full; for "
        "small data, where everything at once would forget what was learned before"
    )

    def adapt(self, task: Task, spec: StrategySpec) -> Adapted:
        """Return the backbone unfrozen from the top; see `Strategy.adapt`."""
        from bench.strategies.freeze import require_trainable
        from bench.strategies.gradient import Recipe, adapt_by_gradient
        from bench.strategies.rule import StepRule

        assert isinstance(spec, GradualUnfreezeSpec)
        require_trainable(task.backbone, spec.name)
        stages, per_epoch = task.backbone.stages, spec.stages_per_epoch

        def stages_in(epoch: int) -> tuple[Stage, ...]:
            frozen = max(0, len(stages) - (epoch - 1) * per_epoch)
            return stages[frozen:]

        recipe = Recipe(
            stages_of=lambda setting: stages_in(task.last_epoch(setting.epochs)),
            rule_of=lambda setting: StepRule(stages_in=stages_in),
            without_prefix="what is frozen changes from epoch to epoch",
        )
        return adapt_by_gradient(task, spec, recipe)
