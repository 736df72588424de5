"""Records of a run <-> a compact, versioned JSON text; knows no folder, no store and no verdict."""

import base64
import binascii
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import ValidationError

from bench.errors import BaselineError, StoreError
from bench.gate.past import PastRun
from bench.record import SCHEMA_VERSION, PredictionSet, Record
from bench.spec import Frozen
from bench.store.versions import read_record

FORMAT_VERSION = 1
_SHARED = ("environment", "train_profile", "infer_profile", "effective")
_LEFT_OUT = {
    "val", "selection", "curve", "seconds", "artifacts", "backbone", "preprocessing", "data",
}  # fmt: skip


@dataclass(frozen=True)
class Baseline:
    """What a run is compared with.

    Attributes:
        run_id: Of the run it was saved from.
        records: With predictions on the test split (top-1), without what no comparison reads.
        past: The runs up to that one under equal conditions, itself included, oldest first: they
            tell how much equal runs vary, where a store is empty too.
        num_runs: How many of the newest of these count as the reference of costs.
    """

    name: str
    suite: str
    saved_at: datetime
    bench_version: str
    run_id: int
    note: str
    records: tuple[Record, ...]
    past: tuple[PastRun, ...] = ()
    num_runs: int = 1


class _Split(Frozen):
    """Ids and labels of a test split, packed."""

    num_examples: int
    ids_digest: str
    ids: str
    labels: str


class _Entry(Frozen):
    """A record; fields that recur are places in `shared`, predictions are packed."""

    record: dict[str, Any]
    split: int | None = None
    predicted: str = ""
    true_probability: str = ""


class _File(Frozen):
    format: Literal["bench-baseline"] = "bench-baseline"
    format_version: int = FORMAT_VERSION
    name: str
    suite: str
    saved_at: datetime
    bench_version: str
    record_version: int = SCHEMA_VERSION
    run_id: int
    note: str = ""
    num_runs: int = 1
    shared: tuple[dict[str, Any], ...]
    splits: tuple[_Split, ...]
    records: tuple[_Entry, ...]
    past: tuple[PastRun, ...] = ()


def dump_baseline(baseline: Baseline) -> str:
    """Return the JSON text of a baseline: a line per record or run, so that git shows what changed.

    Parts that recur, and the ids of a split, are written once.
    """
    shared: dict[str, int] = {}
    splits: dict[tuple[bytes, bytes], int] = {}
    entries = [_entry(record, shared, splits) for record in baseline.records]
    firsts = _first_of_splits(baseline.records, splits)
    file = _File(
        **{name: getattr(baseline, name) for name in _HEAD},
        shared=tuple(json.loads(text) for text in shared),
        splits=firsts,
        records=tuple(entries),
        past=baseline.past,
    ).model_dump(mode="json")
    lists = {name: file.pop(name) for name in ("shared", "splits", "records", "past")}
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in file.items()]
    for name, items in lists.items():
        body = ",\n  ".join(json.dumps(item, separators=(",", ":")) for item in items)
        lines.append(f" {json.dumps(name)}: [\n  {body}\n ]" if items else f' "{name}": []')
    return "{\n" + ",\n".join(lines) + "\n}\n"


_HEAD = ("name", "suite", "saved_at", "bench_version", "run_id", "note", "num_runs")


def _entry(
    record: Record, shared: dict[str, int], splits: dict[tuple[bytes, bytes], int]
) -> _Entry:
    value = record.model_dump(mode="json", exclude=_LEFT_OUT, exclude_defaults=True)
    value["cell"] = record.cell.model_dump(mode="json")
    if record.test is not None:
        value["test"]["per_class"] = []
    if record.failure is not None:
        value["failure"].pop("traceback", None)
    for name in _SHARED:
        if name in value:
            text = json.dumps(value[name], separators=(",", ":"))
            value[name] = shared.setdefault(text, len(shared))
    test = [kept for kept in record.predictions if kept.split == "test"]
    if not test:
        return _Entry(record=value)
    split = splits.setdefault((test[0].ids, test[0].labels), len(splits))
    packed = _pack(test[0].predicted), _pack(test[0].true_probability)
    return _Entry(record=value, split=split, predicted=packed[0], true_probability=packed[1])


def _first_of_splits(
    records: Sequence[Record], splits: Mapping[tuple[bytes, bytes], int]
) -> tuple[_Split, ...]:
    found: dict[int, _Split] = {}
    for record in records:
        for kept in record.predictions:
            place = splits.get((kept.ids, kept.labels))
            if kept.split == "test" and place is not None and place not in found:
                found[place] = _Split(
                    num_examples=kept.num_examples,
                    ids_digest=kept.ids_digest,
                    ids=_pack(kept.ids),
                    labels=_pack(kept.labels),
                )
    return tuple(found[place] for place in sorted(found))


def parse_baseline(text: str, where: str) -> Baseline:
    """Return the baseline of a JSON text.

    Args:
        text: What `dump_baseline` gave.
        where: The file, for messages.

    Raises:
        BaselineError: It is damaged, of a newer version, or no baseline.
    """
    try:
        data = json.loads(text)
        _check_version(data, where)
        file = _File.model_validate(data)
        return Baseline(
            **{name: getattr(file, name) for name in _HEAD},
            records=tuple(_record(entry, file) for entry in file.records),
            past=file.past,
        )
    except (ValueError, IndexError, KeyError, TypeError, zlib.error, binascii.Error) as error:
        raise BaselineError(
            f"{where} is damaged or no baseline: {_why(error)}. Restore it from version control, "
            "or save it anew: bench baseline save NAME"
        ) from error
    except StoreError as error:
        raise BaselineError(f"{where}: {error}") from error


def _check_version(data: Any, where: str) -> None:
    version = data.get("format_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise BaselineError(
            f"{where} has format {version}, this version of bench knows up to {FORMAT_VERSION}. "
            "Upgrade: pip install -U transfer-bench"
        )


def _why(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return str(error)


def _record(entry: _Entry, file: _File) -> Record:
    value = dict(entry.record)
    for name in _SHARED:
        if name in value:
            value[name] = file.shared[value[name]]
    record = read_record(json.dumps(value), file.record_version)
    if entry.split is None:
        return record
    split = file.splits[entry.split]
    predicted = _unpack(entry.predicted)
    kept = PredictionSet(
        split="test",
        num_examples=split.num_examples,
        ids_digest=split.ids_digest,
        ids=_unpack(split.ids),
        labels=_unpack(split.labels),
        predicted=predicted,
        true_probability=_unpack(entry.true_probability),
        top5=predicted,
    )
    _check_lengths(kept)
    return record.model_copy(update={"predictions": (kept,)})


def _check_lengths(kept: PredictionSet) -> None:
    sizes = {len(kept.labels), len(kept.predicted), len(kept.true_probability)}
    if sizes != {4 * kept.num_examples}:
        raise ValueError(f"predictions are not of {kept.num_examples} examples")


def _pack(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9)).decode()


def _unpack(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text, validate=True))
