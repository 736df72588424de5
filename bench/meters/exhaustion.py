"""Whether an error means that memory ran out; knows not what was tried, nor what to do now."""

from __future__ import annotations

_MARKS = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "DefaultCPUAllocator",
    "bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory, of host or device, could not be had.

    An allocator says so in an exception class of its own, or only in its message.

    Args:
        error: As raised by torch, NumPy or Python.
    """
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in _MARKS)
