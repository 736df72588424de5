"""`partial`: the last stages of a backbone and a new head train; it knows no loop and no data."""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveInt

from bench.interfaces import Adapted, Stage, Task
from bench.spec import Grid, StrategySpec, TrainingSpec


class PartialSpec(TrainingSpec):
    """Fields of `partial`.

    Attributes:
        trainable_stages: Stages that train, counted from the output; see `bench list backbones`.
    """

    name: str = "partial"
    trainable_stages: PositiveInt | Grid[PositiveInt] = 1


class Partial:
    """Fine-tune the last stages, the rest frozen in eval mode."""

    Spec: ClassVar[type[StrategySpec]] = PartialSpec
    version: ClassVar[int] = 1
    summary: ClassVar[str] = (
        "trains the last stages with a new head, the rest frozen in eval mode: most of the gain "
        "of full on small data, for less time and memory"
    )
    trains_backbone: ClassVar[bool] = True

    def needs_val(self, spec: StrategySpec) -> bool:
        """Return True where settings or epochs are chosen."""
        assert isinstance(spec, PartialSpec)
        return spec.epochs > 1 or len(spec.grid_points()) > 1

    def adapt(self, task: Task, spec: StrategySpec) -> Adapted:
        """Return the backbone with its last stages trained; see `Strategy.adapt`."""
        from bench.strategies.freeze import last_stages
        from bench.strategies.gradient import Recipe, adapt_by_gradient

        assert isinstance(spec, PartialSpec)

        def stages_of(setting: TrainingSpec) -> tuple[Stage, ...]:
            assert isinstance(setting, PartialSpec) and isinstance(setting.trainable_stages, int)
            return last_stages(task.backbone, setting.trainable_stages)

        return adapt_by_gradient(task, spec, Recipe(stages_of))
