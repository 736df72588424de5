"""Ways to do the same work, timed in turn in one process; knows not what the work is."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

_POLL_SECONDS = 0.005

QUICK = os.environ.get("BENCH_QUICK") == "1"
"""Tiny sizes that only show that a benchmark runs; results are kept apart and never published."""


def size(full: int, quick: int) -> int:
    """Return the size to measure at."""
    return quick if QUICK else full


@dataclass(frozen=True)
class Timing:
    """Seconds of one run on the clock, and of all CPUs, children that ended included."""

    wall_seconds: float
    cpu_seconds: float

    def scaled(self, factor: float) -> Timing:
        """Return the time of `factor` times as much of the same work."""
        return Timing(self.wall_seconds * factor, self.cpu_seconds * factor)

    def __add__(self, other: Timing) -> Timing:
        return Timing(self.wall_seconds + other.wall_seconds, self.cpu_seconds + other.cpu_seconds)


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def timed(work: Callable[[], object]) -> Timing:
    """Return what one run of the work takes."""
    wall, cpu = time.perf_counter(), _cpu_seconds()
    work()
    return Timing(time.perf_counter() - wall, _cpu_seconds() - cpu)


def median(timings: list[Timing]) -> Timing:
    """Return the medians of both clocks."""
    return Timing(
        statistics.median(timing.wall_seconds for timing in timings),
        statistics.median(timing.cpu_seconds for timing in timings),
    )


def interleave(
    ways: Mapping[str, Callable[[], Timing | None]], *, rounds: int
) -> dict[str, Timing]:
    """Return the median per way, all ways run in turn so that a slow minute hits each of them.

    Args:
        ways: Name -> one run. A way that returns a timing of its own is taken at its word, which
            leaves its preparation out; else the whole call is timed.
        rounds: Runs of each; the order turns round every time.
    """
    found: dict[str, list[Timing]] = {name: [] for name in ways}
    for number in range(rounds):
        names = list(ways) if number % 2 == 0 else list(reversed(ways))
        for name in names:
            own: list[Timing | None] = []
            whole = timed(lambda run=ways[name], own=own: own.append(run()))  # type: ignore[misc]
            found[name].append(own[0] or whole)
    return {name: median(timings) for name, timings in found.items()}


@dataclass(frozen=True)
class Ended:
    """A process that ended: exit status, seconds with all its descendants, its highest memory."""

    code: int
    timing: Timing
    peak_bytes: int


def run_process(command: list[str], *, environ: Mapping[str, str], log: Path) -> Ended:
    """Run a command and return what it and the processes it waited for took.

    Args:
        command: Program and arguments.
        environ: Added to this process's environment.
        log: Gets everything it prints.
    """
    began = time.perf_counter()
    with log.open("wb") as file:
        actions = [
            (os.POSIX_SPAWN_DUP2, file.fileno(), 1),
            (os.POSIX_SPAWN_DUP2, file.fileno(), 2),
        ]
        pid = os.posix_spawn(command[0], command, {**os.environ, **environ}, file_actions=actions)
        ended, peak = 0, 0
        while not ended:
            # The kernel's own maximum (ru_maxrss) would begin with what this process holds.
            peak = max(peak, _high_water_bytes(pid))
            ended, status, usage = os.wait4(pid, os.WNOHANG)
            time.sleep(_POLL_SECONDS)
    timing = Timing(time.perf_counter() - began, usage.ru_utime + usage.ru_stime)
    return Ended(os.waitstatus_to_exitcode(status), timing, peak)


def _high_water_bytes(pid: int) -> int:
    """Return the most a process has been resident with, 0 once it has ended."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
