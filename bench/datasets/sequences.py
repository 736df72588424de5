"""Texts or clips -> a shared pool of rows of their own length on disk; knows no split, no model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.artifacts import ArtifactCache
from bench.datasets.images import num_decoding_threads
from bench.datasets.parts import PART_ORDER
from bench.digests import digest_value
from bench.errors import DatasetError
from bench.interfaces import (
    TOKEN_PADDING,
    EncodedRow,
    Examples,
    Modality,
    RawDataset,
    RawInput,
    RowEncoder,
)

_VERSION = 1
_VALUES, _LENGTHS, _TRUNCATED = "values.bin", "lengths.npy", "truncated.npy"


@dataclass(frozen=True)
class _Form:
    """How rows of a modality are stored and padded, and how many are made at once."""

    kind: str
    dtype: str
    padding: float
    chunk: int


_FORMS: dict[Modality, _Form] = {
    "text": _Form("tokens", "int32", TOKEN_PADDING, chunk=1024),
    "audio": _Form("samples", "float32", float("nan"), chunk=64),
}


class SequenceRows:
    """Encoded texts or clips of every part of a dataset; see `interfaces.SequencePool`.

    Each is encoded once per dataset and encoder, all of them when the pool is made for the first
    time: lengths decide what a batch is made of.

    Attributes:
        digest: Of everything the rows depend on.
        lengths: Tokens or samples of every row, int64, shape (N,).
        truncated: Whether a row was cut, bool, shape (N,).
        typical_length: The median of `lengths`.

    Args:
        dataset: Its parts, laid end to end, are the rows.
        modality: ``text`` or ``audio``.
        encoder: Of the backbone.
        cache: Keeps the rows.

    Raises:
        DatasetError: An example cannot be encoded, by name.
    """

    def __init__(
        self, dataset: RawDataset, modality: Modality, encoder: RowEncoder, cache: ArtifactCache
    ) -> None:
        self._form = _FORMS[modality]
        self._dtype = np.dtype(self._form.dtype)
        parts = [dataset.parts[name] for name in PART_ORDER if name in dataset.parts]
        key = {"fingerprint": dataset.fingerprint, "encoder": encoder.digest, "version": _VERSION}
        self.digest = digest_value({"kind": self._form.kind, **key})

        def make(folder: Path) -> None:
            _write(folder, self._dtype, _encode_all(parts, encoder, self._form.chunk))

        self._folder = cache.files(self._form.kind, key, make)
        self.lengths: np.ndarray = np.load(self._folder / _LENGTHS)
        self.truncated: np.ndarray = np.load(self._folder / _TRUNCATED)
        self.typical_length = max(1, int(np.median(self.lengths)))
        self._ends = np.cumsum(self.lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return rows padded at the end to the longest of them, shape (B, L).

        Positional reads keep file pages out of the process's resident memory.

        Args:
            rows: Positions in the parts laid end to end (train, val, test), int64, shape (B,).
        """
        width = int(self.lengths[rows].max(initial=1))
        out = np.full((len(rows), width), self._form.padding, dtype=self._dtype)
        size = self._dtype.itemsize
        with (self._folder / _VALUES).open("rb") as file:
            for place, row in enumerate(rows):
                length = int(self.lengths[row])
                start = int(self._ends[row]) - length
                data = os.pread(file.fileno(), length * size, start * size)
                out[place, :length] = np.frombuffer(data, dtype=self._dtype)
        return out


def _encode_all(parts: Sequence[Examples], encoder: RowEncoder, chunk: int) -> Iterator[EncodedRow]:
    for part in parts:
        for start in range(0, len(part.ids), chunk):
            positions = range(start, min(start + chunk, len(part.ids)))
            rows = encoder.encode(_read(part, positions))
            for position, row in zip(positions, rows, strict=True):
                if not len(row.values):
                    raise DatasetError(
                        f"{part.ids[position]}: the backbone's encoder makes nothing of it, and "
                        "a row needs one value at least"
                    )
                yield row


def _read(part: Examples, positions: Sequence[int]) -> list[RawInput]:
    if part.encoded is None:
        return [part.read(position) for position in positions]
    with ThreadPoolExecutor(num_decoding_threads()) as threads:
        return list(threads.map(part.read, positions))


def _write(folder: Path, dtype: np.dtype, rows: Iterator[EncodedRow]) -> None:
    lengths: list[int] = []
    truncated: list[bool] = []
    with (folder / _VALUES).open("wb") as file:
        for row in rows:
            file.write(np.ascontiguousarray(row.values, dtype=dtype).tobytes())
            lengths.append(len(row.values))
            truncated.append(row.is_truncated)
    np.save(folder / _LENGTHS, np.array(lengths, dtype=np.int64))
    np.save(folder / _TRUNCATED, np.array(truncated, dtype=bool))
