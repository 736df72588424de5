"""One cell's process, from launch to outcome, as its parent watches it; knows no other cell."""

import os
import pickle
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.errors import ExecutorError
from bench.executors import child, host
from bench.executors.failures import (
    Ending,
    ended_early,
    failed_record,
    last_lines,
    out_of_host_memory,
    timed_out,
)
from bench.record import Failure, Progress, Recalled, Record, Status
from bench.spec import Job

EXIT_SECONDS = 10.0
"""How long a child may take to end after its result, and the system to reap one after a kill."""

_DUMP_SECONDS = 0.2
_DESCENDANTS_SECONDS = 0.5
_LOG_BYTES = 1 << 16


@dataclass(frozen=True)
class ServerSetup:
    """What children are made with.

    Attributes:
        context: The `forkserver` context.
        target: ``module:function`` that runs a job.
        server_environ: Variables of the server, beyond the parent's.
    """

    context: ForkServerContext
    target: str
    server_environ: Mapping[str, str]


@contextmanager
def _environ(extra: Mapping[str, str]) -> Iterator[None]:
    """Let variables be inherited by a process started meanwhile."""
    before = {name: os.environ[name] for name in extra if name in os.environ}
    os.environ.update(extra)
    try:
        yield
    finally:
        for name in extra:
            os.environ.pop(name, None)
        os.environ.update(before)


@contextmanager
def without_main() -> Iterator[None]:
    """Hide the main module, which children would otherwise import anew.

    That would cost each child the command line's imports, and run a script that sweeps without an
    ``if __name__ == "__main__"`` again in every child.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class SupervisedCell:
    """A child that runs one job.

    Attributes:
        job: What it runs.
        device: Where.
    """

    def __init__(self, job: Job, setup: ServerSetup) -> None:
        """Start the child.

        Raises:
            ExecutorError: The server that children come from ended, or cannot be started.
        """
        self.job = job
        self.device = job.device
        self._progress: list[Progress] = []
        self._phase: str | None = None
        self._result: Record | Recalled | None = None
        self._verdict: tuple[Status, Failure] | None = None
        self._floor: int | None = None
        self._peak: int | None = None
        self._descendants: list[int] = []
        self._next_search = 0.0
        self._oom_kills = host.oom_kills()
        self._log = tempfile.NamedTemporaryFile(prefix="bench-cell-", delete=False)  # noqa: SIM115
        self._started_at = datetime.now(UTC)
        self._start(setup)
        self._began = time.monotonic()
        self._ended: float | None = None
        self._deadline: float | None = None

    def _start(self, setup: ServerSetup) -> None:
        launch = child.Launch(
            job=pickle.dumps(self.job),
            target=setup.target,
            log=self._log.name,
            environ=dict(os.environ),
            num_threads=self.job.num_threads,
        )
        self._results, theirs = setup.context.Pipe(duplex=False)
        self._process = setup.context.Process(
            target=child.main, args=(launch, theirs), daemon=False, name=self.job.cell.label
        )
        try:
            with _environ(setup.server_environ), without_main():
                self._process.start()
        except (OSError, EOFError) as error:
            self._discard()
            raise ExecutorError(
                f"no process for a cell could be started ({type(error).__name__}: {error}): the "
                "server that imports torch for all cells ended at its start. Run 'bench doctor', "
                "and python -c 'import torch, torchvision, timm, transformers' to see why."
            ) from error
        except BaseException:
            self._discard()
            raise
        finally:
            theirs.close()

    def _discard(self) -> None:
        self._results.close()
        self._log.close()
        Path(self._log.name).unlink(missing_ok=True)

    def waitables(self) -> list[Any]:
        """Return what to wait on: messages, while there may be any, and the end."""
        sentinel = [self._process.sentinel]
        return sentinel if self._results.closed else [self._results, *sentinel]

    def advance(self) -> list[Progress]:
        """Read what the child has said, enforce its limits, and return its reports.

        Raises:
            ExecutorError: A module that every cell needs does not import.
        """
        # Looked at before the messages: what a child says before its end is then never missed.
        exited = bool(wait([self._process.sentinel], 0))
        self._receive()
        if exited:
            self._finish()
        elif self._result is not None:
            self._expect_exit()
        else:
            self._enforce()
        reports, self._progress = self._progress, []
        return reports

    @property
    def ended(self) -> bool:
        """Whether there is an outcome, and no process."""
        return self._ended is not None

    def _receive(self) -> None:
        try:
            while not self._results.closed and self._results.poll():
                self._take(self._results.recv())
        except (EOFError, OSError):
            # The child closed its end, or was killed amid a message.
            self._results.close()

    def _take(self, message: Any) -> None:
        if isinstance(message, Progress):
            self._phase = message.phase
            self._progress.append(message)
        elif isinstance(message, child.Started):
            self._floor = message.memory_bytes
            _check_preload(message.preload_failures)
        elif isinstance(message, Record | Recalled):
            self._result = message
        else:
            raise ExecutorError(f"a cell answered with {type(message).__name__}, not a record")

    @property
    def _pid(self) -> int:
        pid = self._process.pid
        assert pid is not None  # set by start, which raises otherwise
        return pid

    def _enforce(self) -> None:
        limits = self.job.limits
        if time.monotonic() - self._began > limits.cell_timeout:
            self._ask_where_it_stands()
            self._end(timed_out(limits.cell_timeout, self._phase, self._log_tail()))
            return
        self._sample_memory()
        held = self._held()
        if limits.host_memory is not None and held is not None and held > limits.host_memory:
            self._end(out_of_host_memory(held, int(limits.host_memory), self._phase))

    def _sample_memory(self) -> None:
        began = time.monotonic()
        if began > self._next_search:
            self._descendants = host.descendants(self._pid)
            # A walk over all processes takes at most a hundredth of a core, so that watching does
            # not change what is measured.
            ended = time.monotonic()
            self._next_search = ended + max(_DESCENDANTS_SECONDS, 100 * (ended - began))
        held = sum(host.private_memory_bytes(pid) for pid in (self._pid, *self._descendants))
        self._peak = max(self._peak or 0, held)

    def _held(self) -> int | None:
        if self._peak is None or self._floor is None:
            return None
        return max(0, self._peak - self._floor)

    def _ask_where_it_stands(self) -> None:
        """Have a child that hangs write its stack into its log before it is ended."""
        with suppress(ProcessLookupError):
            os.kill(self._pid, child.DUMP_SIGNAL)
            wait([self._process.sentinel], _DUMP_SECONDS)

    def _expect_exit(self) -> None:
        """Give a child that has answered a while to end, then end it; its result stands."""
        if self._deadline is None:
            self._deadline = time.monotonic() + EXIT_SECONDS
        elif time.monotonic() > self._deadline:
            self.kill()

    def _end(self, verdict: tuple[Status, Failure]) -> None:
        self._verdict = verdict
        self.kill()

    def kill(self) -> None:
        """End the child and all its descendants now, and wait until it is gone."""
        if self._ended is None:
            if not wait([self._process.sentinel], 0):
                host.kill_tree(self._pid)
            # A process stuck in a driver cannot be killed; the sweep does not wait for it.
            wait([self._process.sentinel], EXIT_SECONDS)
            self._finish()

    def _finish(self) -> None:
        self._ended = time.monotonic()
        self._receive()
        self._results.close()
        if self._result is None and self._verdict is None:
            code = self._process.exitcode
            self._verdict = ended_early(
                255 if code is None else code,
                self._phase,
                self._log_tail(),
                kernel_out_of_memory=self._kernel_ran_out(),
            )
        host.kill_group(self._pid)  # what it had started and left behind
        self._discard()

    def _kernel_ran_out(self) -> bool:
        now = host.oom_kills()
        return now is not None and self._oom_kills is not None and now > self._oom_kills

    def _log_tail(self) -> str:
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _LOG_BYTES))
        return last_lines(self._log.read().decode(errors="replace").splitlines())

    def outcome(self) -> Record | Recalled:
        """Return the child's own result, or the record of how it ended without one."""
        if self._result is not None:
            return self._result
        assert self._verdict is not None and self._ended is not None  # only asked once ended
        status, failure = self._verdict
        ending = Ending(
            status=status,
            failure=failure,
            started_at=self._started_at,
            wall_seconds=self._ended - self._began,
            host_peak_bytes=self._held(),
        )
        return failed_record(self.job, ending)


def _check_preload(failures: Mapping[str, str]) -> None:
    if failures:
        causes = "; ".join(f"{name} does not import: {why}" for name, why in failures.items())
        raise ExecutorError(
            f"cells cannot run. {causes}. Reinstall it, in a version that fits the torch installed."
        )
