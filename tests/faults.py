"""Cells and jobs of the fault plugin, for tests of executors and sweeps."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench import registry
from bench.spec import BackboneSpec, Cell, DatasetSpec, Job, Limits

FOLDER = Path(__file__).resolve().parent / "plugins" / "faults"
TARGET = "bench_faults:execute"


@contextmanager
def faults_on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process and its children see the plugin."""
    monkeypatch.syspath_prepend(str(FOLDER))
    registry.registered.cache_clear()
    yield
    registry.registered.cache_clear()


def environ_with_faults(**extra: str) -> dict[str, str]:
    """Return the environment of a process that shall see the plugin and the tests.

    Its cells need torch alone: other libraries are loaded only where ``BENCH_PRELOAD`` says so.
    """
    paths = [str(FOLDER), str(FOLDER.parents[2])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "BENCH_PRELOAD": "torch", **extra}


def fault_cell(
    strategy: str, *, seed: int = 0, checkpoint: str | None = None, **fields: Any
) -> Cell:
    """Return a cell whose strategy does what its name says; call it with the plugin on the path."""
    spec = registry.strategy(strategy).Spec(name=strategy, **fields)
    return Cell(
        suite="faults",
        backbone=BackboneSpec(name="faults/nothing", checkpoint=checkpoint),
        dataset=DatasetSpec(name="faults"),
        strategy=spec,
        seed=seed,
    )


def fault_job(strategy: str, *, limits: dict[str, Any] | None = None, **fields: Any) -> Job:
    """Return a job of such a cell."""
    cell = fault_cell(strategy, **fields)
    return Job(
        cell=cell,
        run_id=1,
        run_scope="scope",
        request_key=cell.label,
        limits=Limits(**(limits or {})),
    )


def wait_until(condition: Any, seconds: float = 10.0) -> bool:
    """Return whether a condition came true within that time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())


def read_pids(marker: Path) -> list[int]:
    """Return the processes that cells with this marker ran in, in order of their start."""
    return [int(line) for line in marker.read_text().split()] if marker.exists() else []


def is_running(pid: int) -> bool:
    """Return whether a process is there and not merely waiting to be reaped."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


PYTHON = sys.executable
