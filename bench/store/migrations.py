"""How a database of an older layout is led to the present one; knows nothing of the present tables.

Every table is named in SQL as it was in that layout: `schema` moves on, a migration does not.
"""

import json
from collections.abc import Mapping
from contextlib import suppress

from sqlalchemy import Connection, text

from bench.errors import StoreError
from bench.store.schema import Step
from bench.store.versions import dump_summary, read_record, with_outcomes

_BATCH = 100


def _fill_summaries(connection: Connection) -> None:
    """Write the summary of every stored record, some at a time so that memory stays low."""
    read = text("SELECT id, version, body FROM records WHERE id > :last ORDER BY id LIMIT :most")
    write = text("INSERT INTO summaries (record_id, body) VALUES (:record_id, :body)")
    last = 0
    while rows := connection.execute(read, {"last": last, "most": _BATCH}).all():
        last = rows[-1].id
        for row in rows:
            # One that cannot be read has no summary: whoever asks for it is told why.
            with suppress(StoreError):
                body = dump_summary(read_record(row.body, row.version))
                connection.execute(write, {"record_id": row.id, "body": body})


def _fill_outcomes(connection: Connection) -> None:
    """Write into every summary which test examples were right, from the stored predictions."""
    read = text(
        "SELECT s.record_id, s.body, p.ids_digest, p.labels, p.predicted FROM summaries AS s "
        "JOIN predictions AS p ON p.record_id = s.record_id AND p.split = 'test' "
        "WHERE s.record_id > :last ORDER BY s.record_id LIMIT :most"
    )
    write = text("UPDATE summaries SET body = :body WHERE record_id = :record_id")
    last = 0
    while rows := connection.execute(read, {"last": last, "most": _BATCH}).all():
        last = rows[-1].record_id
        for row in rows:
            labels, predicted = bytes(row.labels), bytes(row.predicted)
            data = with_outcomes(json.loads(row.body), row.ids_digest, labels, predicted)
            body = json.dumps(data, separators=(",", ":"))
            connection.execute(write, {"record_id": row.record_id, "body": body})


LAYOUT_MIGRATIONS: Mapping[int, tuple[Step, ...]] = {
    1: (
        "CREATE TABLE summaries (record_id INTEGER NOT NULL PRIMARY KEY REFERENCES records (id), "
        "body TEXT NOT NULL)",
        _fill_summaries,
    ),
    2: (
        "ALTER TABLE records ADD COLUMN token VARCHAR(32)",
        "CREATE UNIQUE INDEX records_by_token ON records (token)",
    ),
    3: (_fill_outcomes,),
}
"""Version -> steps that lead from it to the next one."""
