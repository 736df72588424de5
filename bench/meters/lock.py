"""Who may use a device now: many cells for quality, one alone for speed; knows no cell."""

from __future__ import annotations

import fcntl
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO


@dataclass
class _Held:
    file: IO[str]
    exclusive: bool


_held: dict[Path, _Held] = {}
"""Locks of this process: the kernel would let a second handle of ours wait for the first."""


@contextmanager
def device_lock(cache_root: Path, device: str, *, exclusive: bool) -> Iterator[None]:
    """Hold a device shared with other cells, or alone, across the processes of a machine.

    It nests: inside a shared hold, an exclusive one waits until the others have let go, and leaves
    a shared one behind; inside an exclusive hold nothing more is needed. Who waits to be alone
    keeps newcomers out, so that it gets its turn. One thread per process may use it. Locks end with
    their process at the latest.

    Args:
        cache_root: Folder of the artifact cache, shared by the processes.
        device: ``cpu`` or ``cuda:0``; processes that see other devices under the same number wait
            for each other without need.
        exclusive: Whether to be alone.
    """
    folder = cache_root / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{platform.node()}-{device.replace(':', '-')}"
    held = _held.get(path)
    if held is None:
        with _fresh(path, exclusive):
            yield
    elif exclusive and not held.exclusive:
        with _raised(path, held):
            yield
    else:
        yield


@contextmanager
def _fresh(path: Path, exclusive: bool) -> Iterator[None]:
    with path.open("a") as file, ExitStack() as gate:
        gate.enter_context(_gate(path, exclusive))
        fcntl.flock(file, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        if not exclusive:
            gate.close()
        _held[path] = _Held(file, exclusive)
        try:
            yield
        finally:
            del _held[path]


@contextmanager
def _raised(path: Path, held: _Held) -> Iterator[None]:
    # Let go first: two that wait for each other's shared hold would wait for ever.
    fcntl.flock(held.file, fcntl.LOCK_UN)
    try:
        with _gate(path, exclusive=True):
            fcntl.flock(held.file, fcntl.LOCK_EX)
            held.exclusive = True
            try:
                yield
            finally:
                held.exclusive = False
                fcntl.flock(held.file, fcntl.LOCK_SH)
    except BaseException:
        fcntl.flock(held.file, fcntl.LOCK_SH)
        raise


@contextmanager
def _gate(path: Path, exclusive: bool) -> Iterator[None]:
    with path.with_suffix(".gate").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
