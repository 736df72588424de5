"""Texts held in memory -> examples; knows no file format."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.interfaces import Examples

if TYPE_CHECKING:
    import numpy as np


def text_examples(ids: Sequence[str], labels: np.ndarray, texts: Sequence[str]) -> Examples:
    """Return texts as examples, as they are: no character is changed.

    Args:
        ids: Unique within the dataset, length N.
        labels: Class indices, shape (N,).
        texts: Length N.
    """
    import numpy as np

    held = tuple(texts)
    return Examples(
        ids=tuple(ids),
        labels=np.asarray(labels, dtype=np.int64),
        contents=tuple(hashlib.sha256(_to_bytes(text)).hexdigest() for text in held),
        read=held.__getitem__,
        encoded=lambda position: _to_bytes(held[position]),
        modality="text",
    )


def _to_bytes(text: str) -> bytes:
    # JSON can hold half of a surrogate pair, which UTF-8 proper cannot.
    return text.encode("utf-8", "surrogatepass")
