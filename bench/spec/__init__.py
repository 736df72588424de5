"""Suite, cell and strategy as frozen models, also the JSON Schema of the YAML; knows no files."""

from bench.spec.axes import BackboneSpec, DatasetSpec, ProtocolName, Refit
from bench.spec.strategy import StrategySpec, TrainingSpec
from bench.spec.suite import Cell, Exclude, Job, Limits, Numerics, Suite
from bench.spec.value import Frozen, Grid, grid_values

__all__ = [
    "BackboneSpec",
    "Cell",
    "DatasetSpec",
    "Exclude",
    "Frozen",
    "Grid",
    "Job",
    "Limits",
    "Numerics",
    "ProtocolName",
    "Refit",
    "StrategySpec",
    "Suite",
    "TrainingSpec",
    "grid_values",
]
