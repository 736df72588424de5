"""Memory and energy of one CUDA device as framework and driver count them; knows no host memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import pynvml

from bench.record import Memory

if TYPE_CHECKING:
    import torch


@cache
def _driver_runs() -> bool:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    return True


def nvml_handle(uuid: str) -> Any | None:
    """Return the driver's handle of a device, or None without driver or device.

    A UUID means the same device to framework and driver; their numbers do not: the driver ignores
    CUDA_VISIBLE_DEVICES and orders by bus.

    Args:
        uuid: With or without its prefix ``GPU-`` or ``MIG-``.
    """
    if not _driver_runs():
        return None
    names = [uuid] if uuid.startswith(("GPU-", "MIG-")) else [f"GPU-{uuid}", f"MIG-{uuid}"]
    for name in names:
        try:
            return pynvml.nvmlDeviceGetHandleByUUID(name)
        except pynvml.NVMLError:
            continue
    return None


def process_bytes(handle: Any, pid: int) -> int | None:
    """Return the device memory of a process as the driver sees it.

    None where the driver does not say: inside a container with process numbers of its own, under
    WDDM, and on slices of a device.
    """
    try:
        processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except pynvml.NVMLError:
        return None
    used = [process.usedGpuMemory for process in processes if process.pid == pid]
    return sum(used) if used and None not in used else None


@dataclass
class CudaMemory:
    """Peaks of device memory since the last reset; nothing on devices other than CUDA."""

    device: torch.device

    def reset(self) -> None:
        """Begin new peaks at what is allocated and reserved now."""
        if self.device.type != "cuda":
            return
        import torch

        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)

    def read(self, *, host_bytes: int | None = None) -> Memory:
        """Return the peaks, the framework's and the driver's.

        The driver's is read now: the allocator holds on to its blocks, so that what the process has
        after a pass is what it had at its peak.

        Args:
            host_bytes: Goes into the result as it is.
        """
        if self.device.type != "cuda":
            return Memory(host_bytes=host_bytes)
        import torch

        torch.cuda.synchronize(self.device)
        handle = _handle_of(self.device)
        return Memory(
            allocated_bytes=torch.cuda.max_memory_allocated(self.device),
            reserved_bytes=torch.cuda.max_memory_reserved(self.device),
            process_bytes=None if handle is None else process_bytes(handle, os.getpid()),
            host_bytes=host_bytes,
        )


@dataclass
class DeviceEnergy:
    """Energy of the whole device since a start; None where the device does not count it."""

    device: torch.device
    _began: int | None = None

    def start(self) -> None:
        """Remember the device's counter."""
        self._began = self._millijoules()

    def joules(self) -> float | None:
        """Return the joules since `start`.

        None too if the counter has not moved: it advances in steps of up to 100 ms.
        """
        now = self._millijoules()
        if self._began is None or now is None or now <= self._began:
            return None
        return (now - self._began) / 1000

    def _millijoules(self) -> int | None:
        if self.device.type != "cuda":
            return None
        handle = _handle_of(self.device)
        if handle is None:
            return None
        try:
            return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
        except pynvml.NVMLError:
            return None


def _handle_of(device: torch.device) -> Any | None:
    return nvml_handle(_uuid(device))


def _uuid(device: torch.device) -> str:
    import torch

    index = torch.cuda.current_device() if device.index is None else device.index
    return str(torch.cuda.get_device_properties(index).uuid)
