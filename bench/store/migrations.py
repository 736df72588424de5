"""How a database of an older layout is led to the present one; knows nothing of the present tables.

Every table is named in SQL as it was in that layout: `schema` moves on, a migration does not.
"""

from collections.abc import Mapping
from contextlib import suppress

from sqlalchemy import Connection, text

from bench.errors import StoreError
from bench.store.schema import Step
from bench.store.versions import dump_summary, read_record

_BATCH = 200


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
}
"""Version -> steps that lead from it to the next one."""
