"""A plan put into force on a module, its inputs and a pass; knows not how it was chosen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from bench.record import NumericsPlan

Precision: TypeAlias = Literal["fp32", "tf32", "bf16", "fp16"]
MemoryFormat: TypeAlias = Literal["contiguous", "channels_last"]

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Candidate:
    """One precision in one memory format, with batch norms folded or not, eager or compiled."""

    precision: Precision
    memory_format: MemoryFormat
    folded: bool = False
    compiled: bool = False

    @property
    def name(self) -> str:
        """As in `NumericsPlan.seconds` and `rejected`: ``bf16 channels_last compiled``."""
        how = " folded" * self.folded + " compiled" * self.compiled
        return f"{self.precision} {self.memory_format}{how}"

    @property
    def twin(self) -> Candidate:
        """The same one compiled."""
        return replace(self, compiled=True)

    def as_plan(self) -> NumericsPlan:
        """Return the plan that would put it into force."""
        return NumericsPlan(
            precision=self.precision,
            memory_format=self.memory_format,
            folded=self.folded,
            compiled=self.compiled,
        )


REFERENCE = Candidate("fp32", "contiguous")


def apply_plan(module: nn.Module, plan: NumericsPlan) -> nn.Module:
    """Bring the weights into the plan's memory format, in place, and return the module.

    Values and parameter identity stay, so an optimiser that holds them goes on working.
    """
    return module.to(memory_format=_FORMATS[plan.memory_format])


def prepare_inputs(inputs: Tensor, plan: NumericsPlan) -> Tensor:
    """Return the inputs in the plan's memory format; as they are unless shape (B, C, H, W)."""
    if inputs.dim() != 4:
        return inputs
    return inputs.contiguous(memory_format=_FORMATS[plan.memory_format])


@contextmanager
def autocast(plan: NumericsPlan, device: torch.device) -> Iterator[None]:
    """Run a pass in the plan's precision.

    fp32 means that TF32 is off, which CUDA convolutions otherwise use by default.
    """
    dtype = _AUTOCAST.get(plan.precision)
    tf32 = _float32_kernels("tf32" if plan.precision == "tf32" else "ieee", device)
    with tf32, torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        yield


@contextmanager
def _float32_kernels(precision: str, device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    # Convolutions and RNNs together: torch refuses to answer its older flag when they differ.
    cudnn: Any = torch.backends.cudnn
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = precision
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.fp32_precision = value
