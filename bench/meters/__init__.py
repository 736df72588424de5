"""Time, memory, energy and FLOPs as raw numbers; knows no cell, no model and no record's meaning.

What a device or a driver does not report is None, never 0.
"""

from bench.meters.clock import Clock, FakeClock, Phases, SystemClock
from bench.meters.device import FlopCount, count_flops, synchronize

__all__ = [
    "Clock",
    "CudaMemory",
    "FakeClock",
    "FlopCount",
    "Phases",
    "SystemClock",
    "count_flops",
    "synchronize",
]
