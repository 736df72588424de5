"""Devices, cores and memory this process may use; knows no versions of packages but torch's."""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.errors import UsageError

# What a CPU has for reduced precision decides which numerics win on it.
_TELLING_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
_MODEL_NUMBERS = (("cpu family", "family"), ("model", "model"), ("CPU part", "part"))
_LEGACY_QUOTA = ("cpu.cfs_quota_us", "cpu.cfs_period_us")


def list_devices() -> tuple[str, ...]:
    """Return ``cuda:N`` for each GPU this process may use, then ``cpu``; best first.

    A GPU that the installed torch was not built for is left out.
    """
    if torch_is_cpu_only():
        return ("cpu",)
    return (*(f"cuda:{index}" for index in range(len(visible_gpus()))), "cpu")


def device_name(device: str) -> str:
    """Return the product name of a device.

    Args:
        device: ``cpu`` or ``cuda:N``.

    Raises:
        UsageError: There is no such device here.
    """
    if device == "cpu":
        return cpu_name()
    kind, _, number = device.partition(":")
    names = visible_gpus() if kind == "cuda" else ()
    index = int(number or 0) if (number or "0").isdecimal() else -1
    if not 0 <= index < len(names):
        raise UsageError(f"no device '{device}' here. Known: {', '.join(list_devices())}.")
    return names[index]


def device_class(device: str) -> str:
    """Return what must be equal for costs to be comparable: ``cpu:AMD EPYC …:2``, ``cuda:…``.

    Args:
        device: ``cpu`` or ``cuda:N``.

    Raises:
        UsageError: There is no such device here.
    """
    if device == "cpu":
        return f"cpu:{cpu_name()}:{num_cores()}"
    return f"cuda:{device_name(device)}"


def cpu_name(root: Path = Path("/")) -> str:
    """Return the processor's model, with family and reduced-precision flags where known.

    A virtual machine often says no more than ``AMD EPYC``; generations differ by 5x in bf16.

    Args:
        root: Where ``proc`` is found.
    """
    try:
        lines = (root / "proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    pairs = (line.partition(":") for line in lines)
    info = {key.strip(): value.strip() for key, _, value in pairs}
    name = " ".join(info.get("model name", platform.machine()).split())
    numbers = [f"{word} {info[key]}" for key, word in _MODEL_NUMBERS if key in info]
    flags = set(info.get("flags", info.get("Features", "")).split())
    details = [*numbers, *(flag for flag in _TELLING_FLAGS if flag in flags)]
    return f"{name} ({' '.join(details)})" if details else name


def num_cores(root: Path = Path("/")) -> int:
    """Return the CPU cores this process may use: affinity and the control group's quota.

    Args:
        root: Where ``proc`` and ``sys`` are found.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    quotas = [_quota(text) for text in _group_values(root, "cpu.max")]
    quotas.append(_quota(" ".join(_legacy_values(root, "cpu", _LEGACY_QUOTA))))
    return max(1, min([allowed, *(math.ceil(quota) for quota in quotas if quota)]))


def memory_bytes(root: Path = Path("/")) -> int:
    """Return the memory this process may use: the machine's or its control group's, in bytes.

    Args:
        root: Where ``proc`` and ``sys`` are found.
    """
    import psutil  # late, as all that a mistake in a suite can do without

    limits = [*_group_values(root, "memory.max")]
    limits += _legacy_values(root, "memory", ("memory.limit_in_bytes",))
    known = [int(limit) for limit in limits if limit.isdecimal()]
    return min([int(psutil.virtual_memory().total), *known])


def _quota(text: str) -> float | None:
    parts = text.split()
    if len(parts) != 2 or not parts[0].isdecimal():
        return None
    return int(parts[0]) / int(parts[1])


def _group_values(root: Path, name: str) -> Iterator[str]:
    """Yield a limit of the process's control group and of those above it (version 2)."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    mount = root / "sys/fs/cgroup"
    for line in lines:
        number, _, group = line.split(":", 2)
        if number != "0":
            continue
        own = mount / group.lstrip("/")
        for folder in (own, *(parent for parent in own.parents if parent.is_relative_to(mount))):
            with suppress(OSError):
                yield (folder / name).read_text().strip()


def _legacy_values(root: Path, controller: str, names: tuple[str, ...]) -> list[str]:
    """Return limits of version 1 as a container sees its own group."""
    folder = root / "sys/fs/cgroup" / controller
    try:
        return [(folder / name).read_text().strip() for name in names]
    except OSError:
        return []


def torch_is_cpu_only() -> bool:
    """Return whether the installed torch cannot use a GPU, or there is no torch."""
    try:
        return version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return True


@contextmanager
def driver_open() -> Iterator[bool]:
    """Open the NVIDIA driver's library; the value says whether there is one."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield False
        return
    try:
        yield True
    finally:
        pynvml.nvmlShutdown()


def visible_gpus() -> tuple[str, ...]:
    """Return the product names of the GPUs this process may use, in CUDA's order."""
    with driver_open() as runs:
        if not runs:
            return gpus_of_kernel_module()
        import pynvml

        handles = [
            pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())
        ]
        names = [str(pynvml.nvmlDeviceGetName(handle)) for handle in handles]
        uuids = [str(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles]
    chosen = select_visible(os.environ.get("CUDA_VISIBLE_DEVICES"), uuids)
    return tuple(names[index] for index in chosen)


def select_visible(visible: str | None, uuids: list[str]) -> tuple[int, ...]:
    """Return the driver's numbers of the GPUs that CUDA shows, in CUDA's order.

    Bus order is assumed; with GPUs of several kinds CUDA_DEVICE_ORDER=PCI_BUS_ID makes it so.

    Args:
        visible: CUDA_VISIBLE_DEVICES, or None where it is not set. Its first entry that names no
            GPU ends the list, as in CUDA; a slice (``MIG-…``) stands for the GPU only where there
            is one.
        uuids: Of all GPUs, by the driver's number.
    """
    if visible is None:
        return tuple(range(len(uuids)))
    chosen: list[int] = []
    for entry in (part.strip() for part in visible.split(",")):
        if entry.isdecimal():
            matches = [int(entry)] if int(entry) < len(uuids) else []
        elif entry.startswith("MIG-"):
            matches = [0] if len(uuids) == 1 else []
        else:
            matches = [n for n, uuid in enumerate(uuids) if entry and uuid.startswith(entry)]
        if len(matches) != 1 or matches[0] in chosen:
            break
        chosen += matches
    return tuple(chosen)


def gpus_of_kernel_module(root: Path = Path("/")) -> tuple[str, ...]:
    """Return product names where the driver is there and its library is not.

    Args:
        root: Where ``proc`` is found.
    """
    files = sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
    texts = [file.read_text(errors="replace") for file in files]
    models = [re.search(r"^Model:\s*(.+?)\s*$", text, re.MULTILINE) for text in texts]
    names = [match.group(1) if match else "NVIDIA GPU" for match in models]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    uuids = [_information_uuid(text) for text in texts]
    return tuple(names[index] for index in select_visible(visible, uuids))


def _information_uuid(text: str) -> str:
    match = re.search(r"^GPU UUID:\s*(\S+)", text, re.MULTILINE)
    return match.group(1) if match else ""
