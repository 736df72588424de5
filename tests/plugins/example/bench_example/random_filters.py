"""``random-filters/<n>``: convolution with filters that nothing taught; knows no weights file."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import ClassVar

from bench.interfaces import Backbone, Located, Stage
from bench.record import Preprocessing
from bench.spec import BackboneSpec

_WIDTHS = (64, 256)
_SIDE, _GRID, _SEED = 9, 4, 0


class RandomFilterSource:
    """Random 9 x 9 filters, rectified and averaged over a 4 x 4 grid: the architecture alone.

    Source: Jarrett et al., 2009, whose random first stage comes close to a learned one.
    """

    prefix: ClassVar[str] = "random-filters"

    def names(self) -> Sequence[str]:
        """Return a name per number of filters."""
        return tuple(sorted(f"{self.prefix}/{width}" for width in _WIDTHS))

    def check(self, spec: BackboneSpec) -> str | None:
        """Return what is wrong beyond an unknown pretrained name, or None."""
        fits = spec.name in self.names() and not (spec.checkpoint or spec.revision)
        known = ", ".join(self.names())
        return None if fits else f"{spec.name}: known are {known}, without checkpoint or revision."

    def locate(self, spec: BackboneSpec) -> Located:
        """Return nothing: the filters are drawn."""
        return Located()

    def load(self, spec: BackboneSpec, *, image_size: int | None, seed: int) -> Backbone:
        """Return the extractor; filters are the same for every seed, unless weights are random."""
        import torch
        from torch import nn

        from bench.backbones.assemble import Parts, assemble

        width = int(spec.name.partition("/")[2])
        filters = nn.Conv2d(3, width, _SIDE, padding=_SIDE // 2, bias=False)
        drawn = torch.Generator().manual_seed(seed if spec.weights == "random" else _SEED)
        with torch.no_grad():
            filters.weight.normal_(std=1 / _SIDE, generator=drawn)
        layers = {"filters": filters, "rectify": nn.ReLU(), "pool": nn.AdaptiveAvgPool2d(_GRID)}
        parts = Parts(
            module=nn.Sequential(OrderedDict(layers, flatten=nn.Flatten())),
            own=Preprocessing(image_size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
            stages=(Stage("filters", ("filters",)),),
            source="random filters",
            declared_dim=width * _GRID**2,
        )
        return assemble(spec, parts, image_size=image_size)
