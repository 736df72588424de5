"""What the parent sees of a child from outside: memory, descendants, kills; knows no cell."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import psutil

_VMSTAT = Path("/proc/vmstat")


def private_memory_bytes(pid: int) -> int:
    """Return the private resident bytes of a process, 0 where it has ended.

    Pages of files are left out where the system tells them apart (Linux): libraries and artifacts
    that are mapped or read are given back under pressure and run nobody out of memory.
    """
    try:
        memory = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0
    return int(memory.rss - getattr(memory, "shared", 0))


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and theirs."""
    try:
        return [process.pid for process in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def kill_tree(pid: int) -> None:
    """End a process, its group and its descendants at once, with no chance to clean up."""
    others = descendants(pid)
    kill_group(pid)
    for each in (pid, *others):
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def kill_group(pid: int) -> None:
    """End what is left of the group that a process led, itself ended or not."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def oom_kills(vmstat: Path = _VMSTAT) -> int | None:
    """Return how many processes the kernel has killed for want of memory, None if it won't say.

    Counts since boot, cgroup limits included; a rise explains a SIGKILL that nobody here sent.
    """
    try:
        text = vmstat.read_text()
    except OSError:
        return None
    counts = dict(line.split() for line in text.splitlines() if line)
    return int(counts["oom_kill"]) if "oom_kill" in counts else None
