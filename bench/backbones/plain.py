"""Extractors with nothing learned, to show whether transfer was worth anything; knows no files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from bench.errors import BackboneError
from bench.interfaces import Backbone, Located
from bench.record import Preprocessing
from bench.spec import BackboneSpec

if TYPE_CHECKING:
    import torch

PIXELS = "plain/pixels"
_SIDE = 32


class PlainSource:
    """``plain/pixels``: the image itself, averaged down to at most 32 x 32 and flattened."""

    prefix: ClassVar[str] = "plain"

    def names(self) -> Sequence[str]:
        """Return the one name."""
        return (PIXELS,)

    def check(self, spec: BackboneSpec) -> str | None:
        """Return what is wrong with a spec, or None: there are no weights to choose."""
        if spec.name != PIXELS:
            return f"unknown backbone '{spec.name}'. Known: {PIXELS}."
        if spec.weights == "random" or spec.checkpoint or spec.revision:
            return f"'{PIXELS}' has no weights: drop weights, checkpoint and revision."
        return None

    def locate(self, spec: BackboneSpec) -> Located:
        """Return nothing: there are no files."""
        return Located()

    def load(self, spec: BackboneSpec, *, image_size: int | None, seed: int) -> Backbone:
        """Return the extractor.

        Features are 3 * 32 * 32 wide, or 3 * S * S for images of S < 32 pixels, in [0, 1] unless
        the spec gives mean and std.

        Args:
            spec: Must pass `check`.
            image_size: Height and width in pixels; None is 32.
            seed: Not used.

        Raises:
            BackboneError: The spec does not pass `check`.
        """
        problem = self.check(spec)
        if problem:
            raise BackboneError(problem)
        from bench.backbones.assemble import Parts, assemble

        own = Preprocessing(
            image_size=_SIDE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), interpolation="bilinear"
        )
        side = min(_SIDE, image_size or _SIDE)
        parts = Parts(
            module=_make_pixels(side),
            own=own,
            stages=(),
            source="nothing learned",
            declared_dim=3 * side * side,
            trainable=False,
        )
        return assemble(spec, parts, image_size=image_size)


def _make_pixels(side: int) -> torch.nn.Module:
    from torch import nn

    return nn.Sequential(nn.AdaptiveAvgPool2d(side), nn.Flatten())
