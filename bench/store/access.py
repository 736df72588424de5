"""One database to read from and write to, errors in words; knows no table."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import Connection, Engine, Row, Select

from bench.collector import collector_paused
from bench.store import schema

T = TypeVar("T")


class Database:
    """An open database; a context manager that closes it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The database for messages: a file name, or a URL without its password."""
        return schema.display(self._engine.url)

    @property
    def identity(self) -> str:
        """What names the database on this machine wherever it is opened from."""
        return schema.identity(self._engine.url)

    def close(self) -> None:
        """Release every connection."""
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection to read from; an error of the database is a `StoreError`."""
        with schema.translated(self._engine.url, "read"), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Give a transaction, kept whole or not at all; an error is a `StoreError`."""
        with schema.translated(self._engine.url, "write to"), self._engine.begin() as connection:
            yield connection

    def _fetch(self, query: Select[Any]) -> Sequence[Row[Any]]:
        with self.reading() as connection:
            return connection.execute(query).all()

    def _read_each(self, query: Select[Any], read: Callable[[Row[Any]], T]) -> list[T]:
        """Return what is read from each row, one at a time: their texts take more memory than it.

        The connection is free again when a row cannot be read.
        """
        with self.reading() as connection, collector_paused():
            # A server then sends rows as they are read, instead of all at first.
            streaming = connection.execution_options(stream_results=True)
            with streaming.execute(query) as rows:
                return [read(row) for row in rows]
