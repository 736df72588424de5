"""The nightly gate's judgement: baseline and candidate in, verdicts and an exit code out, pure.

It knows no store, no file and no terminal.
"""

from bench.gate.limits import DEFAULT_LIMITS, parse_min_effects
from bench.gate.reading import read_cell
from bench.gate.values import (
    FAMILIES,
    Cost,
    GateSettings,
    History,
    Measured,
    Metric,
    Need,
    Row,
    SeedResult,
    Verdict,
    Verdicts,
)
from bench.gate.verdicts import judge

__all__ = [
    "DEFAULT_LIMITS",
    "FAMILIES",
    "Cost",
    "GateSettings",
    "History",
    "Measured",
    "Metric",
    "Need",
    "Row",
    "SeedResult",
    "Verdict",
    "Verdicts",
    "judge",
    "parse_min_effects",
    "read_cell",
]
