"""Records <-> JSON, whole and as summaries, led forward from old versions; knows no database."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from bench.errors import StoreError
from bench.record import SCHEMA_VERSION, Record
from bench.summary import RecordSummary

Migration = Callable[[dict[str, Any]], dict[str, Any]]

MIGRATIONS: Mapping[int, Migration] = {}
"""Version -> function from a record's JSON of that version to the next one's."""

_SUMMARY = TypeAdapter(RecordSummary)


def dump_record(record: Record) -> str:
    """Return a record's JSON without its predictions.

    A loss that is not finite is kept as such, since it is what diverged.
    """
    return json.dumps(record.model_dump(mode="json"), separators=(",", ":"))


def dump_summary(record: RecordSummary) -> str:
    """Return the JSON of what a summary keeps of a record, and nothing else."""
    return json.dumps(_SUMMARY.dump_python(record, mode="json"), separators=(",", ":"))


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


def read_summary(body: str) -> RecordSummary:
    """Return the summary of a JSON text that `dump_summary` gave in this schema version.

    Raises:
        StoreError: It is none.
    """
    try:
        return RecordSummary.model_validate_json(body)
    except ValidationError as error:
        raise _unreadable(SCHEMA_VERSION, error) from error


def _unreadable(version: int, error: ValidationError) -> StoreError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return StoreError(
        f"a stored record of version {version} cannot be read: {where}: {first['msg']}. "
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
