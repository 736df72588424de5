"""Is the database whole, and what is in it; knows no spool."""

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from bench.errors import StoreError
from bench.store import schema
from bench.store.database import Store
from bench.store.versions import read_record

_MOST_PROBLEMS = 20


@dataclass(frozen=True)
class StoreCheck:
    """What a store holds, and what is wrong with it.

    Attributes:
        name: The database, without a password.
        server: Kind and version, e.g. ``PostgreSQL 15.8``.
        problems: At most 20, empty where it is whole.
    """

    name: str
    server: str
    layout: int
    num_runs: int
    num_records: int
    num_predictions: int
    problems: tuple[str, ...]


def check_store(store: Store) -> StoreCheck:
    """Return counts and every sign of damage; reads every record.

    Raises:
        StoreError: It cannot be read at all.
    """
    with store.reading() as connection:
        counts = [
            connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (schema.runs, schema.records, schema.predictions)
        ]
        return StoreCheck(
            name=store.name,
            server=_server(connection),
            layout=connection.execute(select(schema.layout.c.version)).scalar_one(),
            num_runs=counts[0],
            num_records=counts[1],
            num_predictions=counts[2],
            problems=tuple(_problems(connection)[:_MOST_PROBLEMS]),
        )


def _server(connection: Connection) -> str:
    names = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
    version = ".".join(map(str, connection.dialect.server_version_info or ()))
    return f"{names.get(connection.dialect.name, connection.dialect.name)} {version}".strip()


def _problems(connection: Connection) -> list[str]:
    return [*_damage(connection), *_orphans(connection), *_unreadable(connection)]


def _damage(connection: Connection) -> list[str]:
    if connection.dialect.name != "sqlite":
        return []
    rows = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    return [str(row) for row in rows if row != "ok"]


def _orphans(connection: Connection) -> list[str]:
    """Return one message per table whose rows name others that are not there."""
    problems = []
    for table in schema.METADATA.sorted_tables:
        for key in table.foreign_keys:
            owner = key.column
            lost = select(func.count()).where(~select(owner).where(owner == key.parent).exists())
            count = connection.execute(lost.select_from(table)).scalar_one()
            if count:
                problems.append(f"{count} rows of {table.name} name no {owner.table.name}")
    return problems


def _unreadable(connection: Connection) -> list[str]:
    table = schema.records
    problems = []
    query = select(table.c.id, table.c.version, table.c.body).order_by(table.c.id)
    for row in connection.execution_options(stream_results=True).execute(query):
        try:
            read_record(row.body, row.version)
        except (StoreError, ValueError) as error:
            problems.append(f"record {row.id}: {error}")
    return problems
