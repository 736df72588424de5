"""Records of cells that could not write their own; knows what the parent saw, nothing more."""

import signal
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from bench.record import Failure, Record, Status
from bench.spec import Job

_TAIL_LINES = 20


@dataclass(frozen=True)
class Ending:
    """How a child ended, as its parent saw it.

    Attributes:
        wall_seconds: From the start of the process to its end.
        host_peak_bytes: Highest memory sampled above the floor; None if there was no sample.
    """

    status: Status
    failure: Failure
    started_at: datetime
    wall_seconds: float
    host_peak_bytes: int | None = None


def failed_record(job: Job, ending: Ending) -> Record:
    """Return the record of a cell whose child left none: a status and why, no score."""
    return Record(
        key=None,
        request_key=job.request_key,
        run_id=job.run_id,
        cell=job.cell,
        status=ending.status,
        failure=ending.failure,
        started_at=ending.started_at,
        wall_seconds=ending.wall_seconds,
        host_peak_bytes=ending.host_peak_bytes,
    )


def last_lines(lines: Iterable[str]) -> str:
    """Return the last 20 lines of what a child printed, where a traceback ends."""
    told = [line for line in lines if not line.startswith("Extension modules: ")]
    return "\n".join(told[-_TAIL_LINES:])


def timed_out(seconds: float, phase: str | None, log: str) -> tuple[Status, Failure]:
    """Return the ending of a child that ran past its limit."""
    message = (
        f"ran longer than limits.cell_timeout ({seconds:g} s) and was ended. "
        "Raise the limit, or take fewer epochs, examples or grid points."
    )
    return Status.TIMEOUT, Failure(kind="Timeout", message=message, traceback=log, phase=phase)


def out_of_host_memory(held: int, limit: int, phase: str | None) -> tuple[Status, Failure]:
    """Return the ending of a child that held more bytes than it may."""
    message = (
        f"held {_mib(held)} above its start, more than limits.host_memory ({_mib(limit)}), and was "
        "ended. Raise the limit, or lower batch_size, image_size or --jobs."
    )
    return Status.OOM, Failure(kind="HostMemory", message=message, phase=phase)


def ended_early(
    exit_code: int, phase: str | None, log: str, *, kernel_out_of_memory: bool
) -> tuple[Status, Failure]:
    """Return the ending of a child that ended without a result.

    Args:
        exit_code: As `multiprocessing` gives it: negative for a signal.
        phase: What the child had said it was doing.
        log: The end of what it printed.
        kernel_out_of_memory: Whether the kernel killed something for want of memory meanwhile.
    """
    if exit_code == -signal.SIGKILL and kernel_out_of_memory:
        message = (
            "killed by the kernel, which had run out of memory. "
            "Lower --jobs, batch_size or image_size, or set limits.host_memory."
        )
        return Status.OOM, Failure(kind="SIGKILL", message=message, traceback=log, phase=phase)
    if exit_code < 0:
        name = _signal_name(-exit_code)
        message = f"the process of this cell was ended by {name}, which bench did not send."
        return Status.CRASHED, Failure(kind=name, message=message, traceback=log, phase=phase)
    if exit_code == 1:
        cause = log.strip().splitlines()[-1] if log.strip() else "it printed nothing"
        message = f"the process of this cell failed outside the cell: {cause}"
        return Status.ERROR, Failure(kind="ChildError", message=message, traceback=log, phase=phase)
    message = f"the process of this cell exited with code {exit_code} and left no result."
    return Status.CRASHED, Failure(
        kind=f"exit code {exit_code}", message=message, traceback=log, phase=phase
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
