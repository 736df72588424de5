"""Whether an error means that memory ran out; knows not what was tried, nor what to do now."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

_MARKS = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "DefaultCPUAllocator",
    "bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
# oneDNN says the same of what it does not support and of what it finds no memory for.
_AMBIGUOUS_MARKS = (
    "could not create a primitive",
    "could not create a memory object",
    "could not execute a primitive",
)
_OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
_NEVER_OVERCOMMIT = "2"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory, of host or device, could not be had.

    An allocator says so in an exception class of its own, or only in its message. A message that
    can mean something else too counts where requests for host memory can be refused at all.

    Args:
        error: As raised by torch, NumPy or Python.
    """
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    message = str(error)
    if any(mark in message for mark in _AMBIGUOUS_MARKS):
        return _is_host_memory_refused()
    return any(mark in message for mark in _MARKS)


def _is_host_memory_refused() -> bool:
    """Return whether the system says no to a request rather than kill later, as Linux does."""
    if sys.platform == "win32":
        return True
    import resource

    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return True
    with suppress(OSError):
        return _OVERCOMMIT.read_text().strip() == _NEVER_OVERCOMMIT
    return False
