"""Cells in processes on this machine, a few at a time; knows devices and cores, no store."""

import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Self

from bench.environment import num_cores
from bench.errors import UsageError
from bench.executors import OnProgress, Outcome, child, preload
from bench.executors.supervision import ServerSetup, SupervisedCell
from bench.record import Progress
from bench.spec import Job

_TICK_SECONDS = 0.1
_PRELOAD_VARIABLE = "BENCH_PRELOAD"
"""Modules to preload, space-separated, instead of the usual ones; empty preloads nothing."""

# glibc hands large freed blocks back to the kernel, and each training step then pays for fetching
# its pages anew: about a sixth of the time of a small model on a CPU. Meters trim before they read.
_KEEP_FREED_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 34),
    "MALLOC_TOP_PAD_": str(1 << 26),
}


class LocalExecutor:
    """Runs each cell in a fresh process, forked from a server that has torch imported already.

    Nothing is started before the first job. A device is given to one cell at a time, unless more
    jobs than devices are asked for. The cores are shared out evenly among the jobs.

    Attributes:
        devices: ``cpu`` or ``cuda:N``, all of one class.
        jobs: Cells that run at once.
        num_threads: CPU threads of each.
    """

    def __init__(
        self,
        devices: tuple[str, ...] = ("cpu",),
        *,
        jobs: int | None = None,
        target: str = "bench.execute:execute",
        preload_modules: tuple[str, ...] | None = None,
    ) -> None:
        """Decide on slots and threads; starts nothing.

        Args:
            devices: At least one.
            jobs: None is one per device.
            target: ``module:function`` that takes a job and an emit function, run in the child.
            preload_modules: Imported once for all cells; None asks ``BENCH_PRELOAD``, then torch,
                torchvision, timm and transformers.

        Raises:
            UsageError: Fewer than one job.
        """
        if jobs is not None and jobs < 1:
            raise UsageError(f"--jobs {jobs}: at least one cell must run at a time")
        self.devices = devices
        self.jobs = jobs or len(devices)
        self.num_threads = _threads_per_job(self.jobs)
        self._target = target
        self._preload_modules = preload_modules
        self._running: list[SupervisedCell] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, jobs: Iterable[Job], on_progress: OnProgress) -> Generator[Outcome, None, None]:
        """Yield each job with its result as they end; see `Executor.run`.

        Closing the generator, or an exception in it, ends every child at once.
        """
        setup = self._setup()
        waiting = iter(jobs)
        try:
            while True:
                self._fill(waiting, setup, on_progress)
                if not self._running:
                    return
                yield from self._next_outcomes(on_progress)
        finally:
            self._kill_all()

    def _fill(self, waiting: Iterator[Job], setup: ServerSetup, on_progress: OnProgress) -> None:
        while len(self._running) < self.jobs:
            job = next(waiting, None)
            if job is None:
                return
            placed = job.model_copy(
                update={"device": self._free_device(), "num_threads": self.num_threads}
            )
            on_progress(placed, Progress(phase="start"))
            self._running.append(SupervisedCell(placed, setup))

    def _free_device(self) -> str:
        """Return the device with the fewest cells, the first among equals."""
        cells = Counter(cell.device for cell in self._running)
        return min(self.devices, key=lambda device: cells[device])

    def _next_outcomes(self, on_progress: OnProgress) -> Generator[Outcome, None, None]:
        """Watch for one turn and yield what ended in it."""
        wait([handle for cell in self._running for handle in cell.waitables()], _TICK_SECONDS)
        for cell in tuple(self._running):
            for progress in cell.advance():
                on_progress(cell.job, progress)
            if cell.ended:
                self._running.remove(cell)
                yield cell.job, cell.outcome()

    def _setup(self) -> ServerSetup:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([preload.__name__])
        return ServerSetup(context, self._target, self._server_environ())

    def _server_environ(self) -> dict[str, str]:
        """Return variables with which the server finds the same modules as this process.

        Safe path, since the server would otherwise look for modules in the working folder first,
        where a user's ``random.py`` would take the place of Python's.
        """
        modules = self._preload_modules
        if modules is None:
            asked = os.environ.get(_PRELOAD_VARIABLE)
            modules = preload.DEFAULT_MODULES if asked is None else tuple(asked.split())
        ours = [child.__name__]
        if modules and self._target.startswith("bench."):
            ours.append(self._target.partition(":")[0])
        return {
            **{name: os.environ.get(name, value) for name, value in _KEEP_FREED_MEMORY.items()},
            preload.MODULES_VARIABLE: " ".join([*modules, *ours]),
            "OMP_NUM_THREADS": str(self.num_threads),
            "PYTHONSAFEPATH": "1",
            "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        }

    def _kill_all(self) -> None:
        for cell in self._running:
            cell.kill()
        self._running.clear()

    def close(self) -> None:
        """End every child and the server they come from.

        The server keeps the environment and modules it was started with, so that a later sweep in
        this process starts its own.
        """
        self._kill_all()
        server: Any = forkserver._forkserver
        server._stop()


def _threads_per_job(jobs: int) -> int:
    """Return an even share of the cores, or what OMP_NUM_THREADS asks for."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) else max(1, num_cores() // jobs)
