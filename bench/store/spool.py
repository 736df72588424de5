"""Records that wait on this machine for their store: one file each; knows no database.

A file is written whole, synchronised to disk and only then given its name.
"""

import json
import os
import tempfile
import time
from base64 import b64decode, b64encode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.digests import digest_text
from bench.errors import StoreError
from bench.files import default_cache_dir
from bench.record import SCHEMA_VERSION, PredictionSet, Record
from bench.store.versions import dump_record, read_record

SPOOL_VERSION = 1

_BLOBS = ("ids", "labels", "predicted", "true_probability", "top5")


@dataclass(frozen=True)
class RunInfo:
    """A run of a suite: the records measured together.

    Attributes:
        id: Number within this store.
        scope: Names the run among all stores, 32 hex digits.
        started_at: In UTC.
        note: Why it was made, for people.
    """

    id: int
    scope: str
    suite: str
    started_at: datetime
    note: str = ""


@dataclass(frozen=True)
class Parcel:
    """A record on its way to a store.

    Attributes:
        token: Names this delivery: a parcel that arrives twice is stored once.
        run: Whose record it is; its scope is what counts, numbers differ between stores.
        record: With its predictions.
    """

    token: str
    run: RunInfo
    record: Record


def default_spool_dir() -> Path:
    """Return ``BENCH_SPOOL`` or the folder ``spool`` of the artifact cache."""
    named = os.environ.get("BENCH_SPOOL")
    return Path(named).expanduser() if named else default_cache_dir() / "spool"


class Spool:
    """The parcels of this machine for one store, oldest first.

    Attributes:
        folder: Where they are.
    """

    def __init__(self, store: str, root: Path | None = None) -> None:
        self._store = store
        self.folder = (root or default_spool_dir()) / digest_text(store)[:16]

    def paths(self) -> list[Path]:
        """Return the files, in the order they were written."""
        return sorted(self.folder.glob("*.json"))

    def put(self, parcel: Parcel) -> Path:
        """Keep a parcel on disk and return its file.

        Raises:
            StoreError: The folder cannot be written, or its disk is full.
        """
        path = self.folder / f"{time.time_ns():020d}-{parcel.token}.json"
        content = json.dumps({"store": self._store, **_packed(parcel)}).encode()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write_durably(path, content)
        except OSError as error:
            raise StoreError(
                f"cannot spool a record in {self.folder}: {error.strerror}. Free some space there, "
                "or name another folder with BENCH_SPOOL."
            ) from error
        return path

    def read(self, path: Path) -> Parcel:
        """Return the parcel of a file.

        Raises:
            StoreError: It is damaged, or of a newer version of bench.
        """
        try:
            content = json.loads(path.read_bytes())
            if content["spool"] > SPOOL_VERSION:
                raise StoreError(
                    f"{path} was written by a newer bench. Upgrade: pip install -U transfer-bench"
                )
            return _unpacked(content)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path} is damaged: {error}. It is left as it is; repair it or move it away."
            ) from error


def stores_waited_for(root: Path | None = None) -> dict[str, int]:
    """Return the number of parcels on this machine by the store they are for.

    Args:
        root: Folder of all spools; None is the default one.
    """
    found: dict[str, int] = {}
    for folder in sorted((root or default_spool_dir()).glob("*")):
        paths = sorted(folder.glob("*.json"))
        if paths:
            name = _store_of(paths) or f"the store of {folder}"
            found[name] = found.get(name, 0) + len(paths)
    return found


def _store_of(paths: Sequence[Path]) -> str | None:
    """Return the store that the first parcel that can be read names."""
    for path in paths:
        with suppress(OSError, ValueError, KeyError, TypeError):
            return str(json.loads(path.read_bytes())["store"])
    return None


def _write_durably(path: Path, content: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    # The name is safe only once its folder is on disk too.
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _packed(parcel: Parcel) -> dict[str, Any]:
    run = parcel.run
    return {
        "spool": SPOOL_VERSION,
        "token": parcel.token,
        "run": {
            "id": run.id,
            "scope": run.scope,
            "suite": run.suite,
            "started_at": run.started_at.isoformat(),
            "note": run.note,
        },
        "version": SCHEMA_VERSION,
        "record": json.loads(dump_record(parcel.record)),
        "predictions": [_packed_set(each) for each in parcel.record.predictions],
    }


def _packed_set(predictions: PredictionSet) -> dict[str, Any]:
    values = predictions.model_dump()
    return values | {name: b64encode(values[name]).decode() for name in _BLOBS}


def _unpacked(content: dict[str, Any]) -> Parcel:
    run = content["run"]
    started_at = datetime.fromisoformat(run["started_at"])
    record = read_record(json.dumps(content["record"]), content["version"])
    predictions = tuple(
        PredictionSet(**(values | {name: b64decode(values[name]) for name in _BLOBS}))
        for values in content["predictions"]
    )
    return Parcel(
        token=content["token"],
        run=RunInfo(**(run | {"started_at": started_at})),
        record=record.model_copy(update={"predictions": predictions}),
    )
