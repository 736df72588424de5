"""Which pretrained backbone, adapted how, for my data and my budget? Numbers that can be trusted.

The Python API says what the commands say, in nine names; importing it loads nothing heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.compare import compare_records
    from bench.plan import plan_cells
    from bench.record import Record
    from bench.spec import Cell, Suite
    from bench.store import load_records, open_store
    from bench.suite import load_suite
    from bench.sweep import run_sweep

__version__ = "0.1.0"

_HOMES = {
    "load_suite": "bench.suite",
    "plan_cells": "bench.plan",
    "run_sweep": "bench.sweep",
    "open_store": "bench.store",
    "load_records": "bench.store",
    "compare_records": "bench.compare",
    "Suite": "bench.spec",
    "Cell": "bench.spec",
    "Record": "bench.record",
}

__all__ = [
    "Cell",
    "Record",
    "Suite",
    "compare_records",
    "load_records",
    "load_suite",
    "open_store",
    "plan_cells",
    "run_sweep",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bench' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
