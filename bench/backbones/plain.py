"""Extractors with nothing learned, to show whether transfer was worth anything; knows no files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from bench.backbones.checks import check_text_fields
from bench.errors import BackboneError
from bench.interfaces import Backbone, Located, Modality
from bench.record import Preprocessing
from bench.spec import BackboneSpec

if TYPE_CHECKING:
    import torch

PIXELS = "plain/pixels"
TFIDF = "plain/tfidf"
_SIDE = 32


class PlainSource:
    """What the input itself says.

    ``plain/pixels`` is the image, averaged down to at most 32 x 32 and flattened; ``plain/tfidf``
    the words of a text, weighed by how rare they are in train.
    """

    prefix: ClassVar[str] = "plain"

    def names(self) -> Sequence[str]:
        """Return the two names."""
        return (PIXELS, TFIDF)

    def modality(self, spec: BackboneSpec) -> Modality:
        """Return what the extractor takes."""
        return "text" if spec.name == TFIDF else "image"

    def check(self, spec: BackboneSpec) -> str | None:
        """Return what is wrong with a spec, or None: there are no weights to choose."""
        if spec.name not in self.names():
            return f"unknown backbone '{spec.name}'. Known: {', '.join(self.names())}."
        if spec.weights == "random" or spec.checkpoint or spec.revision:
            return f"'{spec.name}' has no weights: drop weights, checkpoint and revision."
        if spec.pooling and spec.name == TFIDF:
            return f"'{spec.name}' counts words and has no hidden states: drop pooling."
        return check_text_fields(spec, self.modality(spec))

    def locate(self, spec: BackboneSpec) -> Located:
        """Return no files: there are none; the library that counts words decides what a word is."""
        return Located(packages=("scikit-learn",) if spec.name == TFIDF else ())

    def load(self, spec: BackboneSpec, *, image_size: int | None, seed: int) -> Backbone:
        """Return the extractor; that of texts has yet to be fitted to train.

        Features of pixels are 3 * 32 * 32 wide, or 3 * S * S for images of S < 32 pixels, in
        [0, 1] unless the spec gives mean and std.

        Args:
            spec: Must pass `check`.
            image_size: Height and width in pixels; None is 32. Of no meaning for texts.
            seed: Not used.

        Raises:
            BackboneError: The spec does not pass `check`.
        """
        problem = self.check(spec)
        if problem:
            raise BackboneError(problem)
        if spec.name == TFIDF:
            from bench.backbones.tfidf import load_tfidf

            return load_tfidf(spec)
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
