"""A record as rows of the tables; knows no query and no connection of its own."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, insert

from bench.digests import digest_value
from bench.record import PredictionSet, Record
from bench.spec import Cell
from bench.store import schema
from bench.store.versions import dump_record, dump_summary


def insert_record(connection: Connection, record: Record, token: str) -> bool:
    """Write a record with its summary and predictions; False where that token is there already.

    Args:
        connection: In a transaction, which the caller ends.
        record: What to store, of a run that the database has.
        token: Names this delivery, so that one whose answer got lost can be tried again.
    """
    statement = schema.insert_or_skip(connection, schema.records, _record_values(record, token))
    number = connection.execute(statement.returning(schema.records.c.id)).scalar()
    if number is None:
        return False
    summary = {"record_id": number, "body": dump_summary(record)}
    connection.execute(insert(schema.summaries).values(**summary))
    for predictions in record.predictions:
        _add_predictions(connection, number, predictions)
    return True


def _record_values(record: Record, token: str) -> dict[str, Any]:
    environment = record.environment
    return {
        "run_id": record.run_id,
        "cell_digest": cell_digest(record.cell),
        "key": record.key,
        "request_key": record.request_key,
        "device_class": environment.device_class if environment else "",
        "status": record.status.value,
        "started_at": timestamp(record.started_at),
        "version": record.schema_version,
        "body": dump_record(record),
        "token": token,
    }


def _add_predictions(connection: Connection, record_id: int, packed: PredictionSet) -> None:
    values = packed.model_dump()
    ids = values.pop("ids")
    owner = {"ids_digest": packed.ids_digest, "ids": ids}
    schema.insert_if_absent(connection, schema.prediction_ids, owner)
    connection.execute(insert(schema.predictions).values(record_id=record_id, **values))


def cell_digest(cell: Cell) -> str:
    """Return what names a cell in the database."""
    return digest_value(cell.canonical())


def timestamp(moment: datetime) -> str:
    """Return a moment as the database keeps it: UTC, to the microsecond, sortable as text."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
