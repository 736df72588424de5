"""Host memory of this process above a floor, and its wait for CPUs; knows no device memory."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import psutil

from bench.meters.clock import Clock
from bench.meters.device import release_unused

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_SAMPLE_SECONDS = 0.002


class HostMemory:
    """The high-water mark of resident memory, since the last reset and since the start.

    The kernel's own mark (VmHWM) is used where it can be reset, and is exact; elsewhere a thread
    samples every 2 ms and can miss what is shorter. File pages that are mapped count as resident.

    Attributes:
        floor_bytes: Resident bytes when measuring began.
    """

    def __init__(self, *, exact: bool | None = None) -> None:
        """Begin to measure: the floor is what is resident now.

        Args:
            exact: Whether to use the kernel's mark; None uses it where it can be reset.
        """
        release_unused()
        self._exact = _reset_kernel_mark() if exact is None else exact
        self.floor_bytes = _resident()
        self._highest = self.floor_bytes
        self._sampler: _Sampler | None = None
        self.reset()

    def reset(self) -> None:
        """Begin a new peak at what is resident now; see also `release_unused`."""
        self._highest = max(self._highest, self._peak())
        if self._exact:
            _reset_kernel_mark()
            return
        self.close()
        self._sampler = _Sampler()
        self._sampler.start()

    def peak_above_floor(self) -> int:
        """Return the peak since the start, bytes above the floor; a reset does not lower it."""
        return max(self._highest, self._peak()) - self.floor_bytes

    def pass_peak_above_floor(self) -> int:
        """Return the peak since the last reset, bytes above the floor, at least 0."""
        return max(0, self._peak() - self.floor_bytes)

    def close(self) -> None:
        """End the sampling thread, if there is one; its peak is kept."""
        if self._sampler is not None:
            self._highest = max(self._highest, self._peak())
            self._sampler.finish()
            self._sampler = None

    def _peak(self) -> int:
        if self._sampler is not None:
            return max(self._sampler.peak, _resident())
        mark = _status_bytes("VmHWM") if self._exact else None
        return _resident() if mark is None else mark


def waiting_seconds() -> float | None:
    """Return how long this process's threads have waited for a CPU so far; None where unreported.

    A difference of two readings says whether a measurement between them was disturbed by other
    work: a thread that could run and did not, waited. On an idle machine it stays near 0.

    Source: run-queue delay, second field of `schedstat`, see the kernel's sched-stats.rst.
    """
    delays = []
    for path in Path("/proc/self/task").glob("*/schedstat"):
        # A thread may end while we look.
        with suppress(OSError):
            delays.append(int(path.read_text().split()[1]))
    return sum(delays) / 1e9 if delays else None


class WaitMeter:
    """The share of its threads' time for which this process has waited for a CPU, since made."""

    def __init__(self, clock: Clock, num_threads: int) -> None:
        """Begin to measure.

        Args:
            clock: Wall seconds.
            num_threads: Threads that work at once: their time is what the wait is a share of.
        """
        self._clock = clock
        self._num_threads = num_threads
        self._began, self._waited = clock(), waiting_seconds()

    def fraction(self) -> float | None:
        """Return the share so far, 0 where nothing waited; None where the system does not say."""
        now = waiting_seconds()
        if now is None or self._waited is None:
            return None
        thread_seconds = (self._clock() - self._began) * self._num_threads
        # A thread that ended took its wait with it.
        return max(0.0, now - self._waited) / max(thread_seconds, 1e-9)


class _Sampler(threading.Thread):
    """The largest resident size seen."""

    def __init__(self) -> None:
        super().__init__(name="host-memory", daemon=True)
        self.peak = _resident()
        self._done = threading.Event()

    def run(self) -> None:
        """Sample until told to finish."""
        while not self._done.wait(_SAMPLE_SECONDS):
            self.peak = max(self.peak, _resident())

    def finish(self) -> None:
        """End the thread."""
        self._done.set()
        self.join()


def _status_bytes(field: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return int(values[0]) * 1024 if values else None


def _resident() -> int:
    size = _status_bytes("VmRSS")
    return int(psutil.Process().memory_info().rss) if size is None else size


def _reset_kernel_mark() -> bool:
    """Return whether the kernel keeps a mark and has just reset it."""
    try:
        # 5 resets the high-water mark, see proc_pid_clear_refs(5).
        _CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return _status_bytes("VmHWM") is not None
