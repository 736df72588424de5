"""Examples before preprocessing and as rows of a backbone; knows no dataset and no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

Modality: TypeAlias = Literal["image", "text", "audio"]
TOKEN_PADDING = -1
"""Stands in a batch of token ids behind the end of a text; no token has it."""


@dataclass(frozen=True)
class Clip:
    """Sound as it was recorded, mixed down to one channel.

    Attributes:
        samples: Amplitudes in [-1, 1], float32, shape (N,).
        sample_rate: Samples per second.
    """

    samples: np.ndarray
    sample_rate: int


RawInput: TypeAlias = "Image | str | Clip"
"""One example before any preprocessing, by modality: an image, a text or a clip."""


@dataclass(frozen=True)
class EncodedRow:
    """One text or clip as a backbone takes it, before it is padded to the length of a batch.

    Attributes:
        values: Token ids, int32, or samples, float32, shape (L,), L of at least 1.
        is_truncated: Whether the example was longer than the backbone takes.
    """

    values: np.ndarray
    is_truncated: bool = False


@dataclass(frozen=True)
class RowEncoder:
    """How a backbone wants texts or clips, in rows of their own length.

    Attributes:
        encode: Raw examples, in order -> their rows.
        digest: Of all that decides what `encode` gives for an example.
    """

    encode: Callable[[Sequence[RawInput]], Sequence[EncodedRow]]
    digest: str
