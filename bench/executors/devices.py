"""The devices cells can be given, found without torch; knows nothing of how fast they are."""

import os
import re
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bench.errors import UsageError

DEVICE_VARIABLE = "BENCH_DEVICE"
"""``cpu``, ``cuda`` (all of them) or ``cuda:N``, instead of what is found."""


def choose_devices() -> tuple[str, ...]:
    """Return every visible CUDA device as ``cuda:N``, or ``("cpu",)``; BENCH_DEVICE decides first.

    Raises:
        UsageError: BENCH_DEVICE names a device that is not here, or none at all.
    """
    asked = os.environ.get(DEVICE_VARIABLE, "").strip().lower()
    if asked == "cpu":
        return ("cpu",)
    if asked and not re.fullmatch(r"cuda(:\d+)?", asked):
        raise UsageError(f"{DEVICE_VARIABLE}='{asked}' is no device; use cpu, cuda or cuda:0")
    found = tuple(f"cuda:{index}" for index in range(num_cuda_devices()))
    if not asked:
        return found or ("cpu",)
    chosen = tuple(device for device in found if asked in ("cuda", device))
    if not chosen:
        here = ", ".join(found) or "no CUDA device"
        raise UsageError(
            f"{DEVICE_VARIABLE}='{asked}', but here there is {here}. "
            f"Unset it, or use {DEVICE_VARIABLE}=cpu."
        )
    return chosen


def num_cuda_devices() -> int:
    """Return how many CUDA devices torch will see, without importing it.

    The driver is asked, CUDA_VISIBLE_DEVICES is honoured, and a torch built for CPU sees none.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if _torch_is_cpu_only() or (visible is not None and not visible.strip()):
        return 0
    present = _ask_driver()
    return present if visible is None else min(present, _count_visible(visible))


def _count_visible(visible: str) -> int:
    """Return how many entries count: CUDA stops at the first that is invalid, such as -1."""
    entries = [entry.strip() for entry in visible.split(",")]
    for index, entry in enumerate(entries):
        if not entry or entry.startswith("-"):
            return index
    return len(entries)


def _torch_is_cpu_only() -> bool:
    try:
        return version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return True


def _ask_driver() -> int:
    import pynvml

    nvml: Any = pynvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return 0
    try:
        return int(nvml.nvmlDeviceGetCount())
    finally:
        nvml.nvmlShutdown()
