"""Raw pixels that can be made slow and leaky by the environment, which is part of no key.

Tests and demonstrations put this folder on the path; nothing installs it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from bench.interfaces import Backbone, Located
from bench.record import Preprocessing
from bench.spec import BackboneSpec

if TYPE_CHECKING:
    import torch

NAME = "drag/pixels"
_SIDE = 8
_MOST_HELD = 384 << 20


class DragBackbones:
    """``drag/pixels``: sleeps DRAG_SECONDS and keeps DRAG_MIB more MiB with every forward pass."""

    prefix: ClassVar[str] = "drag"

    def names(self) -> Sequence[str]:
        return (NAME,)

    def check(self, spec: BackboneSpec) -> str | None:
        return None if spec.name == NAME else f"unknown backbone '{spec.name}'. Known: {NAME}."

    def locate(self, spec: BackboneSpec) -> Located:
        return Located()

    def load(self, spec: BackboneSpec, *, image_size: int | None, seed: int) -> Backbone:
        from bench.backbones.assemble import Parts, assemble

        own = Preprocessing(image_size=_SIDE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        parts = Parts(
            module=_make_module(),
            own=own,
            stages=(),
            source="nothing learned",
            declared_dim=3 * _SIDE * _SIDE,
            trainable=False,
        )
        return assemble(spec, parts, image_size=image_size)


def _make_module() -> torch.nn.Module:
    from torch import nn

    class Dragging(nn.Sequential):
        def forward(self, inputs: torch.Tensor) -> Any:
            drag()
            return super().forward(inputs)

    return Dragging(nn.AdaptiveAvgPool2d(_SIDE), nn.Flatten())


_held: list[bytes] = []


def drag() -> None:
    """Sleep, and hold ever more memory up to a bound for the sake of the machine."""
    time.sleep(float(os.environ.get("DRAG_SECONDS", "0")))
    size = int(os.environ.get("DRAG_MIB", "0")) << 20
    if sum(map(len, _held)) + size <= _MOST_HELD:
        _held.append(os.urandom(1 << 10) * (size >> 10))
