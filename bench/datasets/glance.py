"""Files of data -> what their examples are, from names and the head of one file; best effort."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.datasets.columns import read_parquet_schema
from bench.datasets.tree import IMAGE_SUFFIXES
from bench.errors import DatasetError
from bench.interfaces import Modality

_AUDIO_SUFFIXES = frozenset((".wav", ".flac", ".mp3", ".ogg", ".opus"))
_TEXT_SUFFIXES = frozenset((".csv", ".tsv", ".json", ".jsonl", ".txt"))


def glance_modality(files: Sequence[Path]) -> Modality | None:
    """Return what examples are held, as far as a glance tells, or None.

    An image wins over a clip and a clip over a text, as where columns are chosen.

    Args:
        files: Of one dataset; none tell nothing.
    """
    suffixes = {file.suffix.lower() for file in files}
    if suffixes & IMAGE_SUFFIXES:
        return "image"
    if suffixes & _AUDIO_SUFFIXES:
        return "audio"
    parquet = next((file for file in files if file.suffix.lower() == ".parquet"), None)
    if parquet is not None:
        return _glance_parquet(parquet)
    return "text" if suffixes & _TEXT_SUFFIXES else None


def _glance_parquet(path: Path) -> Modality | None:
    """Return what the features say that the `datasets` library writes beside the schema."""
    try:
        schema = read_parquet_schema(path)
    except DatasetError:
        return None
    written: Any = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = written.get("info", {}).get("features", {})
    types = {kind.get("_type") for kind in features.values() if isinstance(kind, dict)}
    if "Image" in types:
        return "image"
    if "Audio" in types:
        return "audio"
    from pyarrow import types as arrow

    kinds = [field.type for field in schema]
    if any(arrow.is_struct(kind) or arrow.is_binary(kind) for kind in kinds):
        return None
    return "text" if any(arrow.is_string(k) or arrow.is_large_string(k) for k in kinds) else None
