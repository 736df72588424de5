"""A loaded backbone and the sources of them, importable without torch; knows no dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from bench.interfaces.files import Located
from bench.interfaces.inputs import Modality, RowEncoder
from bench.record import BackboneInfo, InputPreprocessing
from bench.spec import BackboneSpec

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Stage:
    """A consecutive part of a backbone.

    Attributes:
        modules: Dotted paths of its modules, each whole: no other stage has parameters in them.
        parameters: Dotted names of its parameters that lie in no such module (``cls_token``).
    """

    name: str
    modules: tuple[str, ...]
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Backbone:
    """A loaded feature extractor.

    Attributes:
        module: Inputs -> features, shape (B, D), float. Inputs are, by modality, normalised images,
            shape (B, 3, H, W), float; token ids, shape (B, L), int64, `TOKEN_PADDING` behind the
            end of a text; samples, shape (B, L), float32, NaN behind the end of a clip.
        stages: In order from input to output; together they own every parameter exactly once.
        trainable: False for extractors with nothing to adapt (``plain/…``).
        modality: What it takes.
        encoder: How a text or a clip becomes a row of inputs; None for images.
        fit: Texts of train -> the backbone fitted to them, for extractors that have to see data
            (``plain/tfidf``); None for all others. Called once, before anything is encoded; the
            fitted state is part of the result's `info.weights_digest`.
    """

    module: torch.nn.Module
    info: BackboneInfo
    preprocessing: InputPreprocessing
    stages: tuple[Stage, ...]
    trainable: bool = True
    modality: Modality = "image"
    encoder: RowEncoder | None = None
    fit: Callable[[Sequence[str]], Backbone] | None = None


class BackboneSource(Protocol):
    """One place backbones come from; importable without torch."""

    prefix: ClassVar[str]

    def names(self) -> Sequence[str]:
        """Return every pretrained name, with the prefix, sorted; empty when not listable."""
        ...

    def check(self, spec: BackboneSpec) -> str | None:
        """Return what is wrong with a spec beyond an unknown name, or None."""
        ...

    def locate(self, spec: BackboneSpec) -> Located:
        """Return the files a spec stands for, without network and without torch."""
        ...

    def load(self, spec: BackboneSpec, *, image_size: int | None, seed: int) -> Backbone:
        """Return the backbone, weights loaded completely.

        Args:
            spec: What to load.
            image_size: Height and width in pixels; None is the backbone's own.
            seed: Draws the weights of ``weights: random``.

        Raises:
            WeightsMissingError: Not on disk, and downloads are forbidden here.
            TransferError: The download failed.
            WeightsMismatchError: Tensors that did not load, by name.
        """
        ...
