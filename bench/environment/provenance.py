"""Versions of packages, driver and project, beside the machine; knows no cell."""

from __future__ import annotations

import platform
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.environment.machine import (
    cpu_name,
    device_class,
    device_name,
    driver_open,
    memory_bytes,
    num_cores,
)
from bench.record import Environment

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "numpy",
    "scikit-learn",
    "pillow",
    "transfer-bench",
)
"""Distributions whose version can change a number."""

_GIT_SECONDS = 5


def collect_environment(device: str, project_dir: Path) -> Environment:
    """Return where and under which versions this process measures.

    CUDA's version comes from torch if something has imported it already, else from the driver.

    Args:
        device: ``cpu`` or ``cuda:N``.
        project_dir: Folder of the suite, whose git revision is recorded.

    Raises:
        UsageError: There is no such device here.
    """
    revision, dirty = _git_state(project_dir)
    return Environment(
        device_class=device_class(device),
        device_name=device_name(device),
        driver=_driver_version() if device != "cpu" else None,
        cuda=_cuda_version() if device != "cpu" else None,
        cpu=cpu_name(),
        num_cores=num_cores(),
        memory_bytes=memory_bytes(),
        host=platform.node(),
        platform=platform.platform(),
        python=platform.python_version(),
        packages=package_versions(),
        git_revision=revision,
        git_dirty=dirty,
    )


def package_versions() -> dict[str, str]:
    """Return the installed versions of `PACKAGES`, and cuDNN's where torch is imported."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.backends.cudnn.is_available():
        found["cudnn"] = str(torch.backends.cudnn.version())
    return found


def _git_state(folder: Path) -> tuple[str | None, bool | None]:
    revision = _git(folder, "rev-parse", "HEAD")
    if revision is None:
        return None, None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return revision, None if changes is None else bool(changes)


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints, or None outside a repository, without git, or after 5 seconds."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cuda_version() -> str | None:
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        return None if torch.version.cuda is None else str(torch.version.cuda)
    with driver_open() as runs:
        if not runs:
            return None
        import pynvml

        number = int(pynvml.nvmlSystemGetCudaDriverVersion())
    return f"{number // 1000}.{number % 1000 // 10}"


def _driver_version() -> str | None:
    with driver_open() as runs:
        if not runs:
            return None
        import pynvml

        return str(pynvml.nvmlSystemGetDriverVersion())
