"""What every strategy that takes gradient steps answers alike; it knows no torch and no data."""

from __future__ import annotations

from typing import ClassVar

from bench.spec import StrategySpec, TrainingSpec


class SteppingStrategy:
    """The part of `interfaces.Strategy` that does not depend on what trains."""

    version: ClassVar[int] = 1
    trains_backbone: ClassVar[bool] = True

    def needs_val(self, spec: StrategySpec) -> bool:
        """Return True where settings or epochs are chosen."""
        assert isinstance(spec, TrainingSpec)
        return spec.epochs > 1 or len(spec.grid_points()) > 1
