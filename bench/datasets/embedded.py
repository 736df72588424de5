"""Encoded images held in columns -> examples, each checked by decoding it once."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

import numpy as np
import PIL
from PIL.Image import Image

from bench.artifacts import ArtifactCache
from bench.datasets.columns import parquet_errors
from bench.datasets.files import CheckedFiles
from bench.datasets.images import num_decoding_threads, open_rgb, unreadable_reason
from bench.digests import digest_strings
from bench.interfaces import Examples

Fetch: TypeAlias = Callable[[int], bytes | None]
"""Position -> the bytes of an encoded image, or None where there are none."""

_BATCH = 64


@dataclass(frozen=True)
class EncodedRows:
    """A part whose images are bytes in a column.

    Attributes:
        ids: Unique within the dataset, length N.
        labels: Class indices, int64, shape (N,).
        fetch: Position in `ids` -> bytes.
    """

    ids: Sequence[str]
    labels: np.ndarray
    fetch: Fetch


def image_bytes(value: Any) -> bytes | None:
    """Return the bytes of a cell: bytes themselves, or under ``bytes`` as the hub stores images."""
    if isinstance(value, Mapping):
        value = value.get("bytes")
    return value if isinstance(value, bytes) and value else None


class ParquetBytes:
    """One column of a parquet file, read a row group at a time; the last group is kept."""

    def __init__(self, path: Path, column: str) -> None:
        self._path, self._column = path, column
        self._lock = Lock()
        self._group, self._values = -1, None
        with parquet_errors(path):
            from pyarrow.parquet import ParquetFile

            self._file = ParquetFile(path)
        metadata = self._file.metadata
        sizes = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
        self._starts = list(accumulate(sizes, initial=0))

    def __call__(self, row: int) -> bytes | None:
        """Return the bytes of a row; called from several threads."""
        group = bisect_right(self._starts, row) - 1
        with self._lock, parquet_errors(self._path):
            if group != self._group:
                table = self._file.read_row_group(group, columns=[self._column])
                self._group, self._values = group, table.column(self._column)
            values: Any = self._values
            return image_bytes(values[row - self._starts[group]].as_py())


def check_encoded(
    parts: Sequence[EncodedRows], source: Mapping[str, Any], cache: ArtifactCache
) -> CheckedFiles:
    """Return digests and damage of encoded images, by decoding them in parallel, once.

    Args:
        parts: All parts of a dataset.
        source: JSON value that changes when the bytes may have: stamps of files, a fingerprint.
        cache: Where the result is remembered.
    """
    ids = digest_strings(id_ for part in parts for id_ in part.ids)
    key = {"source": dict(source), "ids": ids, "pillow": PIL.__version__}
    found = cache.json("files", key, lambda: _check_all(parts))
    return CheckedFiles(digests=found["digests"], unreadable=found["unreadable"])


def encoded_examples(rows: EncodedRows, checked: CheckedFiles) -> Examples:
    """Return the readable ones of the rows as examples; each is read when it is asked for."""
    kept = [at for at, id_ in enumerate(rows.ids) if id_ not in checked.unreadable]

    def encoded(position: int) -> bytes:
        return rows.fetch(kept[position]) or b""

    def read(position: int) -> Image:
        return open_rgb(encoded(position))

    return Examples(
        ids=tuple(rows.ids[at] for at in kept),
        labels=np.asarray(rows.labels, dtype=np.int64)[kept],
        contents=tuple(checked.digests[rows.ids[at]] for at in kept),
        read=read,
        encoded=encoded,
    )


def _check_all(parts: Sequence[EncodedRows]) -> dict[str, dict[str, str]]:
    """Return digest or damage by id; few images are in memory at a time."""
    digests: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    with ThreadPoolExecutor(num_decoding_threads()) as threads:
        for part in parts:
            for start in range(0, len(part.ids), _BATCH):
                ids = part.ids[start : start + _BATCH]
                found = threads.map(_check_one, map(part.fetch, range(start, start + len(ids))))
                for id_, (digest, reason) in zip(ids, found, strict=True):
                    (digests if reason is None else unreadable)[id_] = reason or digest
    return {"digests": digests, "unreadable": unreadable}


def _check_one(data: bytes | None) -> tuple[str, str | None]:
    if data is None:
        return "", "no image"
    return hashlib.sha256(data).hexdigest(), unreadable_reason(data)
