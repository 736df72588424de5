"""Packages that only some datasets need, asked for without importing them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from types import MappingProxyType

from bench.interfaces import Modality

READERS: Mapping[Modality, tuple[str, ...]] = MappingProxyType(
    {"text": (), "image": ("pillow",), "audio": ("soundfile",)}
)
"""Distributions that read the files of a modality: their versions can change what is read."""


def missing_extra(modality: Modality) -> str | None:
    """Return which package that reads examples of a modality is not installed, or None."""
    if modality != "audio" or find_spec("soundfile") is not None:
        return None
    return (
        "sound files are read by the package soundfile, which is not installed. Install it with: "
        "pip install 'transfer-bench[audio]'."
    )
