"""Images held as arrays -> examples; knows no file format beyond rows of pixels with a label."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.digests import digest_file
from bench.errors import DatasetError
from bench.interfaces import Examples

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.artifacts import ArtifactCache


def read_pixel_rows(
    path: Path, *, num_rows: int, num_columns: int, cache: ArtifactCache
) -> np.ndarray:
    """Return a headerless table of comma-separated bytes, uint8, shape (num_rows, num_columns).

    Parsing such text takes longer than all else a small dataset needs, so the bytes are kept.

    Raises:
        DatasetError: The file has another shape or holds something else than bytes.
    """

    def parse(rows: np.ndarray) -> np.ndarray:
        values = np.loadtxt(path, delimiter=",", ndmin=2)
        fits = values.shape == (num_rows, num_columns)
        if not fits or values.min() < 0 or values.max() > 255:
            raise DatasetError(
                f"{path}: expected {num_rows} x {num_columns} values in [0, 255], got "
                f"{values.shape[0]} x {values.shape[1]}. Reinstall the package it came with."
            )
        parsed: np.ndarray = values[rows].astype(np.uint8)
        return parsed

    shape = (num_rows, num_columns)
    table = cache.rows("tables", {"file": digest_file(path)}, shape=shape, dtype="uint8")
    every = np.arange(num_rows)
    table.ensure(every, parse)
    return table.read(every)


def array_examples(images: np.ndarray, labels: np.ndarray, *, ids: Sequence[str]) -> Examples:
    """Return examples whose images lie in memory.

    Args:
        images: uint8, shape (N, H, W) or (N, H, W, 3).
        labels: Class indices, shape (N,).
        ids: Unique within the dataset, length N.
    """

    def read(position: int) -> Image:
        from PIL.Image import fromarray

        return fromarray(np.ascontiguousarray(images[position])).convert("RGB")

    contents = tuple(
        hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest() for image in images
    )
    return Examples(
        ids=tuple(ids), labels=np.asarray(labels, dtype=np.int64), contents=contents, read=read
    )
