"""Time, memory, energy and FLOPs as raw numbers; knows no cell, no model and no record's meaning.

What a device or a driver does not report is None, never 0.
"""

from bench.meters.clock import Clock, FakeClock, Phases, Ticker
from bench.meters.cuda import CudaMemory, DeviceEnergy
from bench.meters.device import FlopCount, count_flops, release_unused, synchronize
from bench.meters.exhaustion import is_out_of_memory
from bench.meters.host import HostMemory, WaitMeter, waiting_seconds
from bench.meters.lock import device_lock

__all__ = [
    "Clock",
    "CudaMemory",
    "DeviceEnergy",
    "FakeClock",
    "FlopCount",
    "HostMemory",
    "Phases",
    "Ticker",
    "WaitMeter",
    "count_flops",
    "device_lock",
    "is_out_of_memory",
    "release_unused",
    "synchronize",
    "waiting_seconds",
]
