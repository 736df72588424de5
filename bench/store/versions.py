"""Records <-> JSON, whole and as summaries, led forward from old versions; knows no database."""

import json
import marshal
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from bench.errors import StoreError
from bench.metrics import pack_outcomes
from bench.record import SCHEMA_VERSION, Record
from bench.spec import BackboneSpec, DatasetSpec, Frozen, StrategySpec
from bench.summary import DataSummary, Environment, RecordSummary

Migration = Callable[[dict[str, Any]], dict[str, Any]]

MIGRATIONS: Mapping[int, Migration] = {}
"""Version -> function from a record's JSON of that version to the next one's."""

_SUMMARY = TypeAdapter(RecordSummary)
_SHARED_OF_CELL: Mapping[str, type[Frozen]] = {
    "backbone": BackboneSpec,
    "dataset": DatasetSpec,
    "strategy": StrategySpec,
}
_SHARED: Mapping[str, type[Frozen]] = {"data": DataSummary, "environment": Environment}
_WITHOUT_REFERENCES = 2


def dump_record(record: Record) -> str:
    """Return a record's JSON without its predictions.

    A loss that is not finite is kept as such, since it is what diverged.
    """
    return json.dumps(record.model_dump(mode="json"), separators=(",", ":"))


def dump_summary(record: RecordSummary) -> str:
    """Return the JSON of what a summary keeps of a record, and nothing else.

    Of the predictions, where the record has some, it keeps which test examples are right.
    """
    data = _SUMMARY.dump_python(record, mode="json")
    for packed in record.predictions if isinstance(record, Record) else ():
        if packed.split == "test":
            data = with_outcomes(data, packed.ids_digest, packed.labels, packed.predicted)
    return json.dumps(data, separators=(",", ":"))


def with_outcomes(
    summary: dict[str, Any], ids_digest: str, labels: bytes, predicted: bytes
) -> dict[str, Any]:
    """Return a summary's data with the outcomes that predictions on test hold.

    Args:
        summary: As `dump_summary` writes it.
        ids_digest: See `PredictionSet`, as the others.
        labels: True classes.
        predicted: Predicted classes.
    """
    outcomes = pack_outcomes(ids_digest, labels, predicted)
    return summary | {"outcomes": outcomes.model_dump() if outcomes else None}


def read_record(body: str, version: int = SCHEMA_VERSION) -> Record:
    """Return the record of a JSON text, led forward from its version.

    Raises:
        StoreError: It is of a newer version, or not a record.
    """
    if version != SCHEMA_VERSION:
        data = upgrade(json.loads(body), version, MIGRATIONS, SCHEMA_VERSION)
        body = json.dumps(data)
    try:
        return Record.model_validate_json(body)
    except ValidationError as error:
        raise _unreadable(version, error) from error


class SummaryReader:
    """Reads many summaries: parts that recur, as the environment does, are parsed once and shared.

    Ten thousand records have a few dozen distinct specs and environments.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, bytes], Frozen] = {}

    def read(self, body: str) -> RecordSummary:
        """Return the summary of a JSON text that `dump_summary` gave in this schema version.

        Raises:
            StoreError: It is none.
        """
        try:
            data = from_json(body)  # In half the time that json takes.
            self._share(data.get("cell", {}), _SHARED_OF_CELL)
            self._share(data, _SHARED)
            return RecordSummary.model_validate(data)
        except ValueError as error:
            raise _unreadable(SCHEMA_VERSION, error) from error

    def _share(self, data: dict[str, Any], models: Mapping[str, type[Frozen]]) -> None:
        for name, model in models.items():
            if data.get(name) is not None:
                # Equal bytes are equal parts; the reverse need not hold, and costs one parse.
                part = name, marshal.dumps(data[name], _WITHOUT_REFERENCES)
                if part not in self._known:
                    self._known[part] = model.model_validate(data[name])
                data[name] = self._known[part]


def _unreadable(version: int, error: ValueError) -> StoreError:
    why = str(error)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        why = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return StoreError(
        f"a stored record of version {version} cannot be read: {why}. "
        "Was it written by another version of bench?"
    )


def upgrade(
    data: dict[str, Any], version: int, migrations: Mapping[int, Migration], target: int
) -> dict[str, Any]:
    """Return a record's JSON led from one version to another, step by step.

    Raises:
        StoreError: The record is newer than the target, or a step is unknown.
    """
    if version > target:
        raise StoreError(
            f"a record of schema version {version}; this version of bench reads up to {target}. "
            "Upgrade: pip install -U transfer-bench"
        )
    for step in range(version, target):
        if step not in migrations:
            raise StoreError(f"no way to read a record of schema version {step}")
        data = migrations[step](data) | {"schema_version": step + 1}
    return data
