"""Is the database whole, what is in it, can it be used at all; knows no spool."""

from dataclasses import dataclass, replace

from sqlalchemy import Connection, Engine, Table, func, inspect, select, update

from bench.errors import StoreError
from bench.store import schema
from bench.store.database import Store
from bench.store.opening import file_of, locate_store
from bench.store.versions import read_record

_MOST_PROBLEMS = 20


@dataclass(frozen=True)
class StoreState:
    """What can be said of a store without making, moving or writing anything.

    Attributes:
        name: The database, without a password.
        identity: Names the spool of this machine for it.
        server: Kind and version; None where it does not answer, or no file is there yet.
        layout: None where it has no tables yet.
        num_runs: None where it has no tables yet.
        num_records: None where it has no tables yet.
        problem: Why it cannot be used, with what helps; None where it can.
    """

    name: str
    identity: str
    server: str | None = None
    layout: int | None = None
    num_runs: int | None = None
    num_records: int | None = None
    problem: str | None = None


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
        return StoreCheck(
            name=store.name,
            server=_server(connection),
            layout=connection.execute(select(schema.layout.c.version)).scalar_one(),
            num_runs=_count(connection, schema.runs),
            num_records=_count(connection, schema.records),
            num_predictions=_count(connection, schema.predictions),
            problems=tuple(_problems(connection)[:_MOST_PROBLEMS]),
        )


def look_at_store(url: str | None = None) -> StoreState:
    """Return the state of a store; one that cannot be used is a `problem`, not an error.

    A file that is not there is left so, and an older layout is not led forward.

    Args:
        url: See `open_store`.

    Raises:
        StoreError: It is no URL, or its driver is not installed.
    """
    target = locate_store(url)
    state = StoreState(schema.display(target), schema.identity(target))
    path = file_of(target)
    if path and not path.exists():
        return state
    engine = schema.connect(target)
    try:
        with schema.translated(target, "open"), engine.connect() as connection:
            state = _measure(replace(state, server=_server(connection)), connection)
        if state.layout is not None:
            _check_usable(engine, state.layout)
    except StoreError as error:
        return replace(state, problem=str(error))
    finally:
        engine.dispose()
    return state


def _measure(state: StoreState, connection: Connection) -> StoreState:
    """Return a state with layout and counts, or as it is where our tables are not there."""
    if not inspect(connection).has_table(schema.layout.name):
        return state
    return replace(
        state,
        layout=connection.execute(select(schema.layout.c.version)).scalar_one(),
        num_runs=_count(connection, schema.runs),
        num_records=_count(connection, schema.records),
    )


def _count(connection: Connection, table: Table) -> int:
    return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def _check_usable(engine: Engine, layout: int) -> None:
    """Return when this version of bench can write to the database."""
    if layout > schema.LAYOUT_VERSION:
        raise StoreError(
            f"layout {layout} is newer than this version of bench, which knows up to "
            f"{schema.LAYOUT_VERSION}. Upgrade: pip install -U transfer-bench"
        )
    # Written and taken back: permissions alone do not tell what a server refuses.
    same = update(schema.layout).values(version=schema.layout.c.version)
    with schema.translated(engine.url, "write to"), engine.connect() as connection:
        connection.execute(same)
        connection.rollback()


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
