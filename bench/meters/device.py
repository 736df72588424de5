"""What is asked of a device and of a module: wait, give memory back, count; knows no clock."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class FlopCount:
    """Floating-point operations of a forward pass.

    Attributes:
        per_example: A multiply and an add count as two; None when it could not be counted.
        reason: Why it could not, or None.
    """

    per_example: int | None
    reason: str | None = None


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all that was asked of it; a CPU always has."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def release_unused(device: torch.device | None = None) -> None:
    """Give memory that nobody uses back to the system, so that a peak is of what is in use.

    Args:
        device: A CUDA device whose allocator gives its free blocks back too.
    """
    gc.collect()
    if sys.platform == "linux":
        # glibc keeps freed memory resident; other C libraries have no such call.
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
    if device is not None and device.type == "cuda":
        import torch

        torch.cuda.empty_cache()


def count_flops(module: torch.nn.Module, inputs: torch.Tensor) -> FlopCount:
    """Return the forward FLOPs per example: products, convolutions and attention.

    Element-wise operations, normalisation and pooling are not counted. Attention runs as its two
    plain products meanwhile, since the fused kernel of CPUs has no formula and would count as 0.

    Args:
        module: In the mode it is to be counted in; its state is not changed in eval mode.
        inputs: Shape (B, ...); the first example is run.

    Source: `torch.utils.flop_counter`, whose formulas count a multiply-add as two.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            module(inputs[:1])
    except (RuntimeError, NotImplementedError, TypeError) as error:
        return FlopCount(None, f"{type(error).__name__}: {error}".splitlines()[0])
    total = counter.get_total_flops()
    return FlopCount(total) if total else FlopCount(None, "no operation that has a formula")
