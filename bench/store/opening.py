"""Where the store is: a file name, a URL or BENCH_STORE -> an open store; knows no record."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sqlalchemy.engine import URL

from bench.errors import StoreError
from bench.record import Record
from bench.store import schema
from bench.store.database import Store
from bench.store.migrations import LAYOUT_MIGRATIONS
from bench.summary import RecordSummary

DEFAULT_STORE = "results/bench.db"


def open_store(url: str | None = None, *, create: bool = True) -> Store:
    """Open the database of records.

    Args:
        url: A file name or an SQLAlchemy URL; by default ``BENCH_STORE``, then
            ``results/bench.db``.
        create: Whether a database that does not exist is made.

    Raises:
        StoreError: It cannot be opened, or does not exist and shall not be made.
    """
    target = locate_store(url)
    path = file_of(target)
    if path and not path.exists() and not create:
        raise _missing(target)
    engine = schema.connect(target)
    with ExitStack() as unless_opened:
        unless_opened.callback(engine.dispose)
        with schema.translated(target, "open"):
            if path and create:
                path.parent.mkdir(parents=True, exist_ok=True)
            if not create and not schema.is_prepared(engine):
                raise _missing(target)
            schema.prepare(engine, LAYOUT_MIGRATIONS)
        unless_opened.pop_all()
    return Store(engine)


def locate_store(url: str | None = None) -> URL:
    """Return where the store is; see `open_store`.

    Raises:
        StoreError: It is no URL.
    """
    return schema.parse_url(url or os.environ.get("BENCH_STORE") or DEFAULT_STORE)


def file_of(url: URL) -> Path | None:
    """Return the file of an SQLite database; None where it is in memory or on a server."""
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return None
    return Path(str(url.database))


def _missing(url: URL) -> StoreError:
    return StoreError(
        f"no results in {schema.display(url)} yet. Make some with: bench run suites/smoke.yaml"
    )


def load_records(suite: str | None = None, *, url: str | None = None) -> list[Record]:
    """Return the records of a suite's latest run, or of the latest run of every suite.

    Args:
        suite: Its name; None is every suite.
        url: See `open_store`.

    Raises:
        StoreError: There is no such database, or it cannot be read.
        UsageError: It holds no such suite.
    """
    with _holding(suite, url) as store:
        return store.records(suite)


def load_summaries(suite: str | None = None, *, url: str | None = None) -> list[RecordSummary]:
    """Return what `load_records` does without what only a look at one whole record needs.

    Args:
        suite: Its name; None is every suite.
        url: See `open_store`.

    Raises:
        StoreError: There is no such database, or it cannot be read.
        UsageError: It holds no such suite.
    """
    with _holding(suite, url) as store:
        return store.summaries(suite)


@contextmanager
def _holding(suite: str | None, url: str | None) -> Iterator[Store]:
    """Open a store that is there, and holds the suite where one is named."""
    with open_store(url, create=False) as store:
        if suite is not None:
            store.check_suite(suite)
        yield store
