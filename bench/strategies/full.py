"""`full`: every weight of the backbone and a new head train; it knows no loop and no data."""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveFloat

from bench.interfaces import Adapted, Task
from bench.spec import Grid, StrategySpec, TrainingSpec


class FullSpec(TrainingSpec):
    """Fields of `full`.

    The default rate lies between what small convolutional networks take (1e-3 and above) and what
    vision transformers take (3e-5 to 1e-4) under AdamW; a grid over both is worth its cost.
    """

    name: str = "full"
    learning_rate: PositiveFloat | Grid[PositiveFloat] = 3e-4


class Full:
    """Fine-tune everything."""

    Spec: ClassVar[type[StrategySpec]] = FullSpec
    version: ClassVar[int] = 1
    summary: ClassVar[str] = (
        "trains the whole backbone with a new head: the best accuracy with enough data, at the "
        "full cost of training in time and memory"
    )
    trains_backbone: ClassVar[bool] = True

    def needs_val(self, spec: StrategySpec) -> bool:
        """Return True where settings or epochs are chosen."""
        assert isinstance(spec, FullSpec)
        return spec.epochs > 1 or len(spec.grid_points()) > 1

    def adapt(self, task: Task, spec: StrategySpec) -> Adapted:
        """Return the backbone trained whole; see `Strategy.adapt`."""
        from bench.strategies.freeze import require_trainable
        from bench.strategies.gradient import adapt_by_gradient

        assert isinstance(spec, FullSpec)
        require_trainable(task.backbone, spec.name)
        return adapt_by_gradient(task, spec)
