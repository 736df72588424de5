"""Content-keyed intermediates on disk, shared by cells and processes; knows not what they hold.

An artifact is named by the digest of its key. Three shapes exist: a small JSON value; files that
are made together, once; and an array whose rows are made on demand, so that a cell that needs 1,000
rows of 60,000 pays for 1,000 and the next cell, seed or shot count for none of them. Writers hold a
file lock; a row is marked as present only after its bytes are on disk, so a killed process leaves
nothing wrong behind.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bench.digests import digest_value
from bench.errors import ArtifactError
from bench.files import file_lock, write_atomically
from bench.record import ArtifactUse

_CHUNK_BYTES = 32 << 20


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged: {error}. Delete its folder.") from error


def _write_at(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all bytes; one system call may take fewer than it is given."""
    while len(data):
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _read_at(descriptor: int, into: memoryview, offset: int) -> None:
    """Fill the buffer; one system call gives 2 GiB at most."""
    while len(into):
        read = os.preadv(descriptor, [into], offset)
        if not read:
            raise ArtifactError(f"an artifact ends at byte {offset}, {len(into)} bytes too early")
        into, offset = into[read:], offset + read


class Ledger:
    """What a cell used of the cache and what that had cost, for its record."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, str, bool], float] = defaultdict(float)

    def note(self, kind: str, digest: str, *, built: bool, seconds: float) -> None:
        """Add seconds to an artifact's account, built here or reused."""
        self._seconds[kind, digest, built] += seconds

    def uses(self) -> tuple[ArtifactUse, ...]:
        """Return one entry per artifact and way of use, in the order of first use."""
        return tuple(
            ArtifactUse(kind=kind, digest=digest, built=built, seconds=seconds)
            for (kind, digest, built), seconds in self._seconds.items()
        )


class RowArray:
    """An array on disk whose rows are made on demand, each once.

    Attributes:
        digest: Of the artifact's key.
        num_rows: Rows it can hold; rows not made yet take no disk.
    """

    def __init__(
        self, folder: Path, *, shape: tuple[int, ...], dtype: str, note: Callable[..., None]
    ) -> None:
        self.digest = folder.name
        self.num_rows = shape[0]
        self._row_shape = shape[1:]
        self._dtype = np.dtype(dtype)
        self._row_bytes = int(np.prod(self._row_shape, dtype=np.int64)) * self._dtype.itemsize
        self._folder = folder
        self._note = note
        self._accounted = np.zeros(self.num_rows, dtype=bool)
        self._known = np.zeros(self.num_rows, dtype=bool)
        folder.mkdir(parents=True, exist_ok=True)
        for name, size in (("rows", self.num_rows * self._row_bytes), ("present", self.num_rows)):
            self._allocate(folder / name, size)

    def _allocate(self, path: Path, size: int) -> None:
        with file_lock(self._folder / "lock"), path.open("ab") as file:
            if file.tell() not in (0, size):
                raise ArtifactError(
                    f"{path} has {file.tell()} bytes, not {size}: delete its folder"
                )
            file.truncate(size)

    def _are_present(self, rows: np.ndarray) -> np.ndarray:
        """Return which rows are there; a row once seen is not looked up again."""
        present: np.ndarray = self._known[rows]
        if not present.all():
            self._known = np.fromfile(self._folder / "present", dtype=np.uint8).astype(bool)
            present = self._known[rows]
        return present

    def count_missing(self, rows: np.ndarray) -> int:
        """Return how many different rows of those asked for `ensure` would have to make."""
        return int((~self._are_present(np.unique(rows))).sum())

    def ensure(self, rows: np.ndarray, make: Callable[[np.ndarray], np.ndarray]) -> None:
        """Make the rows that are not present yet.

        Args:
            rows: Positions, int64, shape (N,).
            make: Positions (M,) -> their values (M, *row_shape), called in chunks of about 32 MiB.
        """
        wanted = np.unique(rows)
        if not self._are_present(wanted).all():
            with file_lock(self._folder / "lock"):
                self._make_missing(wanted, make)
        self._account(wanted)

    def _make_missing(self, wanted: np.ndarray, make: Callable[[np.ndarray], np.ndarray]) -> None:
        missing = wanted[~self._are_present(wanted)]
        step = max(1, _CHUNK_BYTES // max(1, self._row_bytes))
        for start in range(0, len(missing), step):
            chunk = missing[start : start + step]
            began = time.perf_counter()
            self._write(chunk, make(chunk))
            seconds = time.perf_counter() - began
            self._add_cost(seconds, len(chunk))
            self._note(built=True, seconds=seconds)
            self._known[chunk] = True
            self._accounted[chunk] = True

    def _write(self, rows: np.ndarray, values: np.ndarray) -> None:
        if values.shape != (len(rows), *self._row_shape):
            raise ArtifactError(f"rows of shape {values.shape[1:]}, expected {self._row_shape}")
        data = np.ascontiguousarray(values, dtype=self._dtype)
        try:
            with (self._folder / "rows").open("r+b") as file:
                for first, last in _runs(rows):
                    view = data[first:last].reshape(-1).view(np.uint8).data
                    _write_at(file.fileno(), view, int(rows[first]) * self._row_bytes)
                os.fdatasync(file.fileno())
            with (self._folder / "present").open("r+b") as file:
                for first, last in _runs(rows):
                    view = memoryview(b"\1" * (last - first))
                    _write_at(file.fileno(), view, int(rows[first]))
        except OSError as error:
            raise ArtifactError(f"cannot write {self._folder}: {error.strerror}") from error

    def _cost(self) -> tuple[float, int]:
        path = self._folder / "cost.json"
        if not path.exists():
            return 0.0, 0
        value = _read_json(path)
        return value["seconds"], value["rows"]

    def _add_cost(self, seconds: float, rows: int) -> None:
        before = self._cost()
        value = {"seconds": before[0] + seconds, "rows": before[1] + rows}
        write_atomically(self._folder / "cost.json", json.dumps(value).encode())

    def _account(self, wanted: np.ndarray) -> None:
        reused = int((~self._accounted[wanted]).sum())
        if reused:
            seconds, rows = self._cost()
            self._note(built=False, seconds=seconds / max(1, rows) * reused)
            self._accounted[wanted] = True

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return the values of rows that are present, shape (N, *row_shape), in the order asked.

        Positional reads keep file pages out of the process's resident memory.

        Raises:
            ArtifactError: A row was never made; it would read as zeros.
        """
        if not self._are_present(rows).all():
            raise ArtifactError(f"{self._folder}: rows were read that were not made")
        out = np.empty((len(rows), *self._row_shape), dtype=self._dtype)
        if not len(rows):
            return out
        with (self._folder / "rows").open("rb") as file:
            for first, last in _runs(rows):
                view = out[first:last].reshape(-1).view(np.uint8).data
                _read_at(file.fileno(), view, int(rows[first]) * self._row_bytes)
        return out


def _runs(rows: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield [first, last) positions of runs of consecutive row numbers."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    bounds = [0, *breaks.tolist(), len(rows)]
    yield from pairwise(bounds)


class ArtifactCache:
    """The artifacts of one machine, as one cell sees them.

    Attributes:
        root: Folder of the cache.
        ledger: What this cell used.
    """

    def __init__(self, root: Path, *, run_scope: str | None = None) -> None:
        self.root = root
        self.ledger = Ledger()
        self._run_scope = run_scope
        self._open: dict[Path, RowArray] = {}

    def _folder(self, kind: str, digest: str, run_bound: bool) -> Path:
        if run_bound and self._run_scope:
            return self.root / "runs" / self._run_scope / kind / digest
        return self.root / "shared" / kind / digest

    def rows(
        self,
        kind: str,
        key: Mapping[str, Any],
        *,
        shape: Sequence[int],
        dtype: str,
        run_bound: bool = False,
    ) -> RowArray:
        """Return the array of that key.

        Args:
            kind: E.g. ``images``, ``features``.
            key: JSON mapping of everything its content depends on.
            shape: (num_rows, *row_shape).
            dtype: NumPy name.
            run_bound: It belongs to the run and is measured again by a new one.
        """
        digest = digest_value(
            {"kind": kind, "shape": list(shape), "dtype": dtype, "key": dict(key)}
        )
        folder = self._folder(kind, digest, run_bound)
        if folder in self._open:
            return self._open[folder]

        def note(*, built: bool, seconds: float) -> None:
            self.ledger.note(kind, digest, built=built, seconds=seconds)

        array = RowArray(folder, shape=tuple(shape), dtype=dtype, note=note)
        self._open[folder] = array
        if not (folder / "key.json").exists():
            write_atomically(folder / "key.json", json.dumps(dict(key)).encode())
        return array

    def holds(self, kind: str, key: Mapping[str, Any], *, run_bound: bool = False) -> bool:
        """Return whether `json` would find a value of that key rather than make it."""
        return self._value_path(kind, key, run_bound).exists()

    def json(
        self, kind: str, key: Mapping[str, Any], make: Callable[[], Any], *, run_bound: bool = False
    ) -> Any:
        """Return the JSON value of that key, made once.

        Args:
            kind: E.g. ``numerics``, ``profile``, ``fingerprint``.
            key: JSON mapping of everything the value depends on.
            make: Makes the value; called under the artifact's lock.
            run_bound: It belongs to the run and is measured again by a new one.
        """
        path = self._value_path(kind, key, run_bound)
        with file_lock(path.parent / "lock"):
            built = not path.exists()
            if built:
                began = time.perf_counter()
                content = {"key": dict(key), "value": make()}
                content["seconds"] = time.perf_counter() - began
                write_atomically(path, json.dumps(content).encode())
            stored = _read_json(path)
        self.ledger.note(kind, path.parent.name, built=built, seconds=stored["seconds"])
        return stored["value"]

    def files(self, kind: str, key: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
        """Return the folder of that key with its files in it, all of them made at once.

        Args:
            kind: E.g. ``tokens``.
            key: JSON mapping of everything the files depend on.
            make: Fills the folder it is given; one killed in the middle of it starts again.
        """
        folder = self._value_path(kind, key, run_bound=False).parent

        def fill() -> None:
            make(folder)

        self.json(kind, key, fill)
        return folder

    def _value_path(self, kind: str, key: Mapping[str, Any], run_bound: bool) -> Path:
        digest = digest_value({"kind": kind, "key": dict(key)})
        return self._folder(kind, digest, run_bound) / "value.json"
