"""The tables of the database and how their layout moves forward; knows no record's fields."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    func,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    InterfaceError,
    InternalError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import (
    TimeoutError as PoolTimeoutError,
)
from sqlalchemy.schema import CreateIndex, CreateTable

from bench.errors import StoreError, StoreUnavailableError

LAYOUT_VERSION = 4

Step = str | Callable[[Connection], None]
"""Of a migration: a statement, or a function where the new content has to be computed."""

BUSY_SECONDS = 30
"""How long a writer waits for another one before it says that the database is locked."""

_PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""Of a PostgreSQL connection (libpq): a server that is gone is noticed within half a minute."""

_PREPARING = 0x62656E6368
"""The advisory lock under which tables are made and moved on: any number, always the same."""

_PASSWORD = re.compile(r"(://[^:/@]*:).*@|(password=)[^&]*")

METADATA = MetaData()

layout = Table("bench_layout", METADATA, Column("version", Integer, nullable=False))

runs = Table(
    "runs",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("scope", String(32), nullable=False, unique=True),
    Column("suite", String(80), nullable=False, index=True),
    Column("note", Text, nullable=False),
    Column("started_at", String(40), nullable=False),
)

records = Table(
    "records",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("run_id", ForeignKey("runs.id"), nullable=False),
    Column("cell_digest", String(64), nullable=False),
    Column("key", String(128)),
    Column("request_key", String(128), nullable=False),
    Column("device_class", String(200), nullable=False),
    Column("status", String(16), nullable=False),
    Column("started_at", String(40), nullable=False),
    Column("version", Integer, nullable=False),
    Column("body", Text, nullable=False),
    Column("token", String(32)),
    Index("records_by_token", "token", unique=True),
    Index("records_of_cell", "run_id", "cell_digest"),
    Index("records_by_key", "key"),
    Index("records_by_request_key", "request_key"),
)

summaries = Table(
    "summaries",
    METADATA,
    Column("record_id", ForeignKey("records.id"), primary_key=True),
    Column("body", Text, nullable=False),
)

prediction_ids = Table(
    "prediction_ids",
    METADATA,
    Column("ids_digest", String(64), primary_key=True),
    Column("ids", LargeBinary, nullable=False),
)

predictions = Table(
    "predictions",
    METADATA,
    Column("record_id", ForeignKey("records.id"), primary_key=True),
    Column("split", String(8), primary_key=True),
    Column("num_examples", Integer, nullable=False),
    Column("ids_digest", ForeignKey("prediction_ids.ids_digest"), nullable=False),
    Column("labels", LargeBinary, nullable=False),
    Column("predicted", LargeBinary, nullable=False),
    Column("true_probability", LargeBinary, nullable=False),
    Column("top5", LargeBinary, nullable=False),
)

memos = Table(
    "memos",
    METADATA,
    Column("run_id", ForeignKey("runs.id"), primary_key=True),
    Column("device_class", String(200), primary_key=True),
    Column("request_key", String(128), primary_key=True),
    Column("key", String(128), nullable=False),
)

locks = Table(
    "locks",
    METADATA,
    Column("suite", String(80), primary_key=True),
    Column("token", String(32), nullable=False),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("process_started", Float, nullable=False),
    Column("since", String(40), nullable=False),
)


def parse_url(text: str) -> URL:
    """Return the database URL; a plain path stands for a SQLite file.

    Raises:
        StoreError: It is not a URL that SQLAlchemy understands.
    """
    if "://" not in text:
        return URL.create("sqlite", database=str(Path(text).expanduser()))
    try:
        return make_url(text)
    except (ArgumentError, ValueError) as error:
        raise StoreError(
            f"'{hide_password(text)}' is not a database URL. Write a file name, "
            "sqlite:///results/bench.db or postgresql+psycopg://user@host/name."
        ) from error


def connect(url: URL) -> Engine:
    """Return an engine for that database; nothing is opened yet.

    Raises:
        StoreError: The driver of that database is not installed.
    """
    sqlite_file = url.get_backend_name() == "sqlite"
    arguments: dict[str, Any] = {"timeout": BUSY_SECONDS} if sqlite_file else {}
    if url.drivername in ("postgresql", "postgresql+psycopg", "postgresql+psycopg2"):
        arguments = {name: value for name, value in _PATIENCE.items() if name not in url.query}
    try:
        # A connection that died while it was idle is made anew.
        engine = create_engine(url, connect_args=arguments, pool_pre_ping=not sqlite_file)
    except (ImportError, SQLAlchemyError) as error:
        raise StoreError(
            f"no driver for {url.drivername}: {error}. Install it, e.g. pip install psycopg[binary]"
        ) from error
    if url.get_backend_name() == "sqlite":
        event.listen(engine, "connect", _set_sqlite_pragmas)
    return engine


def _set_sqlite_pragmas(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys=ON")
    # A record must survive a power cut once the next cell has started.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def is_prepared(engine: Engine) -> bool:
    """Return whether the database holds our tables."""
    return inspect(engine).has_table(layout.name)


def prepare(engine: Engine, migrations: Mapping[int, tuple[Step, ...]]) -> None:
    """Make the tables that are missing and move an older layout forward.

    Args:
        engine: The database.
        migrations: Version -> steps that lead from it to the next one.

    Raises:
        StoreError: The layout is of a newer version than this one knows.
    """
    if not is_prepared(engine):
        _create_tables(engine)
    with engine.connect() as connection:
        version = connection.execute(select(layout.c.version)).scalar_one()
    if version > LAYOUT_VERSION:
        raise StoreError(
            f"{display(engine.url)} has layout {version}, this version of bench knows up to "
            f"{LAYOUT_VERSION}. Upgrade: pip install -U transfer-bench"
        )
    if version < LAYOUT_VERSION:
        migrate(engine, migrations, LAYOUT_VERSION)


def _create_tables(engine: Engine) -> None:
    if engine.dialect.name == "sqlite":
        # The mode is stored in the file; readers then never wait for the writer.
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    with _preparing(engine) as connection:
        for table in METADATA.sorted_tables:
            connection.execute(CreateTable(table, if_not_exists=True))
            for index in table.indexes:
                connection.execute(CreateIndex(index, if_not_exists=True))
        if connection.execute(select(layout.c.version)).first() is None:
            connection.execute(insert(layout).values(version=LAYOUT_VERSION))


@contextmanager
def _preparing(engine: Engine) -> Iterator[Connection]:
    """Give a transaction that changes tables, one process at a time."""
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            # The driver begins a transaction at the first row that is written, which would leave
            # new tables outside of it and two processes side by side.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        elif engine.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(_PREPARING)))
        yield connection


def migrate(engine: Engine, migrations: Mapping[int, tuple[Step, ...]], target: int) -> None:
    """Lead the layout from the version it has to another, all steps or none.

    Nothing happens where another process has just done so.

    Args:
        engine: The database.
        migrations: Version -> steps that lead from it to the next one.
        target: The layout it shall have.
    """
    with _preparing(engine) as connection:
        version = connection.execute(select(layout.c.version).with_for_update()).scalar_one()
        for number in range(version, target):
            for step in migrations[number]:
                if isinstance(step, str):
                    connection.exec_driver_sql(step)
                else:
                    step(connection)
        if version < target:
            connection.execute(update(layout).values(version=target))


def insert_if_absent(connection: Connection, table: Table, values: Mapping[str, Any]) -> None:
    """Insert a row unless one of the same unique key is there."""
    connection.execute(insert_or_skip(connection, table, values))


def insert_or_skip(connection: Connection, table: Table, values: Mapping[str, Any]) -> Any:
    """Return the insert that skips a known unique key; the one statement dialects spell apart."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table).values(**values).on_conflict_do_nothing()
    return sqlite.insert(table).values(**values).on_conflict_do_nothing()


def display(url: URL) -> str:
    """Return the database for messages: a file name, or a URL without its password."""
    if url.get_backend_name() == "sqlite" and url.database:
        return url.database
    return hide_password(url.render_as_string(hide_password=True))


def hide_password(text: str) -> str:
    """Return the text of a URL without its password, whether it is one or not."""
    return _PASSWORD.sub(lambda found: f"{found[1]}***@" if found[1] else f"{found[2]}***", text)


def identity(url: URL) -> str:
    """Return what names a database on this machine: a whole path, or a URL without password."""
    if url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:":
        return str(Path(url.database).absolute())
    return display(url)


@contextmanager
def translated(url: URL, action: str) -> Iterator[None]:
    """Turn an error of the database into one message a user can act on.

    Args:
        url: The database, for the message.
        action: What was tried, e.g. ``read``.

    Raises:
        StoreError: Always where the database failed.
    """
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        cause = str(getattr(error, "orig", None) or error).strip()
        lines = " ".join(cause.split()).rstrip(".")
        kind = StoreUnavailableError if _may_pass(error) else StoreError
        raise kind(f"cannot {action} {display(url)}: {lines}. {_advice(cause)}") from error


def _may_pass(error: Exception) -> bool:
    """Return whether the same statement may succeed later: the database, not the row, is at fault.

    A PostgreSQL server that is read-only for now, as a standby is, calls that an internal error.
    """
    passing = OperationalError, InterfaceError, InternalError, PoolTimeoutError, OSError
    return isinstance(error, passing) or bool(getattr(error, "connection_invalidated", False))


_ADVICE = {
    "read-only transaction": "The server takes no writes now, as a standby does: name the primary "
    "with --store, or wait.",
    "disk is full": "Free some space and re-issue the command; stored records are kept.",
    "readonly": "Its file or folder is read-only: change that, or name another with --store.",
    "read-only": "Its file or folder is read-only: change that, or name another with --store.",
    "permission denied": "Change its permissions, or name another with --store.",
    "locked": "Another process is writing: wait for it, or name another database with --store.",
    "unable to open": "Check that its folder exists and can be written, or use --store.",
    "not a database": "Move the file away, or name another with --store.",
    "no space left": "Free some space and re-issue the command; stored records are kept.",
    "password": "Check the user and the password, e.g. in ~/.pgpass.",
    "connection": "Is the server running, and can it be reached from here?",
    "malformed": "The file is damaged: restore a copy, or name another with --store.",
}


def _advice(cause: str) -> str:
    lowered = cause.lower()
    matches = (advice for sign, advice in _ADVICE.items() if sign in lowered)
    return next(matches, "Check --store and BENCH_STORE.")
