"""The store: runs, records, predictions and what a run already holds."""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from difflib import get_close_matches
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import (
    Connection,
    Engine,
    Row,
    Select,
    and_,
    case,
    func,
    insert,
    or_,
    select,
)

from bench.collector import collector_paused
from bench.errors import StoreError, UsageError
from bench.record import SCHEMA_VERSION, PredictionSet, Record, Status
from bench.spec import Cell
from bench.store import locks, rows, schema
from bench.store.schema import translated
from bench.store.spool import Parcel, RunInfo
from bench.store.versions import SummaryReader, read_record
from bench.summary import RecordSummary

R = TypeVar("R", bound=RecordSummary)


class Store:
    """The database of records; a context manager that closes it."""

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

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection to read from; an error of the database is a `StoreError`."""
        with translated(self._engine.url, "read"), self._engine.connect() as connection:
            yield connection

    def close(self) -> None:
        """Release every connection."""
        self._engine.dispose()

    def _fetch(self, query: Select[Any]) -> Sequence[Row[Any]]:
        with translated(self._engine.url, "read"), self._engine.connect() as connection:
            return connection.execute(query).all()

    # Runs

    def start_run(self, suite: str, *, note: str = "") -> RunInfo:
        """Begin a new run of a suite; it becomes the suite's latest."""
        scope, now = uuid.uuid4().hex, datetime.now(UTC)
        statement = insert(schema.runs).values(
            scope=scope, suite=suite, note=note, started_at=now.isoformat()
        )
        with translated(self._engine.url, "write to"), self._engine.begin() as connection:
            inserted = connection.execute(statement).inserted_primary_key
            if inserted is None:
                raise StoreError(f"{self.name} gave a new run no number")
            return RunInfo(inserted[0], scope, suite, now, note)

    def runs(self, suite: str) -> list[RunInfo]:
        """Return every run of a suite, oldest first."""
        table = schema.runs
        query = select(table).where(table.c.suite == suite).order_by(table.c.id)
        return [_run_info(row) for row in self._fetch(query)]

    def latest_run(self, suite: str) -> RunInfo | None:
        """Return the newest run of a suite, or None."""
        table = schema.runs
        query = select(table).where(table.c.suite == suite).order_by(table.c.id.desc()).limit(1)
        found = self._fetch(query)
        return _run_info(found[0]) if found else None

    def suites(self) -> list[str]:
        """Return the names of all suites that have a run, sorted."""
        column = schema.runs.c.suite
        return [row.suite for row in self._fetch(select(column).distinct().order_by(column))]

    def check_suite(self, suite: str) -> None:
        """Return when there is a run of that suite.

        Raises:
            UsageError: There is none; names the nearest and all known ones.
        """
        known = self.suites()
        if suite in known:
            return
        close = get_close_matches(suite, known, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        names = ", ".join(known) or "none"
        raise UsageError(f"no results of suite '{suite}' in {self.name}.{hint} Known: {names}.")

    # Records

    def add(self, record: Record, *, token: str | None = None) -> bool:
        """Store a record with its predictions, whole or not at all.

        Args:
            record: Of a run of this store.
            token: Names this delivery; one that is stored already is left as it is.

        Returns:
            Whether it was not there before.

        Raises:
            StoreError: The disk is full, or the database is read-only, locked or damaged.
        """
        with translated(self._engine.url, "write to"), self._engine.begin() as connection:
            return rows.insert_record(connection, record, token or uuid.uuid4().hex)

    def deliver(self, parcel: Parcel) -> bool:
        """Store the record of a parcel, once; its run is made where this store lacks it.

        Returns:
            Whether it was not there before.

        Raises:
            StoreError: See `add`.
        """
        run = parcel.run
        values = {
            "scope": run.scope,
            "suite": run.suite,
            "note": run.note,
            "started_at": run.started_at.isoformat(),
        }
        with translated(self._engine.url, "write to"), self._engine.begin() as connection:
            schema.insert_if_absent(connection, schema.runs, values)
            same = select(schema.runs.c.id).where(schema.runs.c.scope == run.scope)
            number = connection.execute(same).scalar_one()
            record = parcel.record.model_copy(update={"run_id": number})
            return rows.insert_record(connection, record, parcel.token)

    def records(
        self,
        suite: str | None = None,
        run_id: int | None = None,
        *,
        cells: Iterable[Cell] | None = None,
    ) -> list[Record]:
        """Return the newest record per cell, in the order they were stored; without predictions.

        Args:
            suite: Only this one; None is every suite.
            run_id: Of that run; None is the latest run of each suite.
            cells: Only records of these; None is whatever a run holds, of cells too that its suite
                file had earlier.
        """
        table = schema.records
        newest = self._newest_ids(suite, run_id)
        query = select(table).where(table.c.id.in_(newest)).order_by(table.c.id)
        return _only([read_record(row.body, row.version) for row in self._rows_of(query)], cells)

    def summaries(
        self,
        suite: str | None = None,
        run_id: int | None = None,
        *,
        cells: Iterable[Cell] | None = None,
    ) -> list[RecordSummary]:
        """Return the summaries of what `records` returns, at a fraction of its time and memory."""
        table, short = schema.records, schema.summaries
        # A record of an older schema, or by a version of bench that wrote none, is read whole.
        usable = and_(short.c.body.is_not(None), table.c.version == SCHEMA_VERSION)
        query = (
            select(
                table.c.version,
                case((usable, short.c.body)).label("summary"),
                case((usable, None), else_=table.c.body).label("body"),
            )
            .outerjoin_from(table, short)
            .where(table.c.id.in_(self._newest_ids(suite, run_id)))
            .order_by(table.c.id)
        )
        reader = SummaryReader()
        found = [
            read_record(row.body, row.version) if row.summary is None else reader.read(row.summary)
            for row in self._rows_of(query)
        ]
        return _only(found, cells)

    def _newest_ids(self, suite: str | None, run_id: int | None) -> Select[Any]:
        table = schema.records
        chosen = [run_id] if run_id is not None else self._latest_run_ids(suite)
        return (
            select(func.max(table.c.id))
            .where(table.c.run_id.in_(chosen))
            .group_by(table.c.run_id, table.c.cell_digest)
        )

    def _rows_of(self, query: Select[Any]) -> Iterator[Row[Any]]:
        """Yield rows one at a time: together their texts take more memory than what is read."""
        with (
            translated(self._engine.url, "read"),
            self._engine.connect() as connection,
            collector_paused(),
        ):
            # A server then sends rows as they are read, instead of all at first.
            yield from connection.execution_options(stream_results=True).execute(query)

    def _latest_run_ids(self, suite: str | None) -> list[int]:
        table = schema.runs
        query = select(func.max(table.c.id).label("id")).group_by(table.c.suite)
        if suite is not None:
            query = query.where(table.c.suite == suite)
        return [row.id for row in self._fetch(query)]

    def find(self, key_prefix: str) -> list[Record]:
        """Return every record whose key or request key begins so, oldest first."""
        table = schema.records
        matches = or_(
            table.c.key.startswith(key_prefix, autoescape=True),
            table.c.request_key.startswith(key_prefix, autoescape=True),
        )
        return self._read(select(table).where(matches).order_by(table.c.id))

    def get(self, key_prefix: str) -> Record:
        """Return the newest record whose key or request key begins so.

        Raises:
            UsageError: None does, or those of several cells do.
        """
        found = self.find(key_prefix) if key_prefix else []
        if not found:
            raise UsageError(
                f"no record with a key that begins with '{key_prefix}' in {self.name}. "
                "Keys are in: bench table --format json"
            )
        cells = {rows.cell_digest(record.cell): record for record in found}
        if len(cells) > 1:
            names = "".join(
                f"\n  {(record.key or record.request_key)[:12]}  {record.cell.label}"
                for record in list(cells.values())[:10]
            )
            raise UsageError(
                f"'{key_prefix}' begins the keys of {len(cells)} cells; give more digits:{names}"
            )
        return found[-1]

    def _read(self, query: Select[Any]) -> list[Record]:
        return [read_record(row.body, row.version) for row in self._rows_of(query)]

    def predictions(self, record: Record) -> tuple[PredictionSet, ...]:
        """Return the predictions of a stored record; empty where none were stored."""
        table, owner = schema.predictions, schema.records
        newest = select(func.max(owner.c.id)).where(
            owner.c.run_id == record.run_id,
            owner.c.request_key == record.request_key,
            owner.c.started_at == rows.timestamp(record.started_at),
        )
        query = (
            select(table, schema.prediction_ids.c.ids)
            .join(schema.prediction_ids)
            .where(table.c.record_id == newest.scalar_subquery())
            .order_by(table.c.split)
        )
        names = PredictionSet.model_fields
        return tuple(
            PredictionSet(**{name: getattr(row, name) for name in names})
            for row in self._fetch(query)
        )

    def whole_records(self, run_id: int) -> list[Record]:
        """Return what `records` does of a run, with the predictions on the test split."""
        table, owner = schema.predictions, schema.records
        newest = self._newest_ids(None, run_id)
        wanted = table.c.record_id.in_(newest), table.c.split == "test"
        query = select(table, schema.prediction_ids.c.ids).join(schema.prediction_ids)
        names = PredictionSet.model_fields
        packed = {
            row.record_id: PredictionSet(**{name: getattr(row, name) for name in names})
            for row in self._rows_of(query.where(*wanted))
        }
        found = []
        for row in self._rows_of(select(owner).where(owner.c.id.in_(newest)).order_by(owner.c.id)):
            own = (packed[row.id],) if row.id in packed else ()
            record = read_record(row.body, row.version)
            found.append(record.model_copy(update={"predictions": own}))
        return found

    # What a run already holds

    def ok_keys(
        self, run_id: int, device_class: str, *, cell: Cell | None = None
    ) -> frozenset[str]:
        """Return the keys of a run's `ok` records on that class of device.

        Args:
            run_id: Of that run.
            device_class: See `Environment`.
            cell: Only records of this cell; None is every cell.
        """
        query = _ok_of_run(schema.records.c.key, run_id, device_class)
        if cell is not None:
            query = query.where(schema.records.c.cell_digest == rows.cell_digest(cell))
        return frozenset(row.key for row in self._fetch(query) if row.key is not None)

    def ok_request_keys(self, run_id: int, device_class: str) -> frozenset[str]:
        """Return the request keys that need no run: of `ok` records, and remembered for one."""
        direct = self._fetch(_ok_of_run(schema.records.c.request_key, run_id, device_class))
        memos = schema.memos
        remembered = self._fetch(
            select(memos.c.request_key).where(
                memos.c.run_id == run_id,
                memos.c.device_class == device_class,
                memos.c.key.in_(_ok_of_run(schema.records.c.key, run_id, device_class)),
            )
        )
        return frozenset(row.request_key for row in [*direct, *remembered])

    def remember(self, run_id: int, request_key: str, key: str, device_class: str) -> None:
        """Note which key a request key leads to, so that a child need not compute it again."""
        values = {
            "run_id": run_id,
            "device_class": device_class,
            "request_key": request_key,
            "key": key,
        }
        with translated(self._engine.url, "write to"), self._engine.begin() as connection:
            schema.insert_if_absent(connection, schema.memos, values)

    def lock(self, suite: str) -> AbstractContextManager[None]:
        """Hold a suite for this process, as a context manager.

        Raises:
            SuiteLockedError: Another runner holds it: says which process, where, since when.
        """
        return locks.hold(self._engine, suite)


def _run_info(row: Row[Any]) -> RunInfo:
    return RunInfo(
        row.id, row.scope, row.suite, datetime.fromisoformat(row.started_at), note=row.note
    )


def _only(records: list[R], cells: Iterable[Cell] | None) -> list[R]:
    """Return the records of those cells, by what they are now read as: a spec may have grown."""
    if cells is None:
        return records
    wanted = {rows.cell_digest(cell) for cell in cells}
    return [record for record in records if rows.cell_digest(record.cell) in wanted]


def _ok_of_run(column: Any, run_id: int, device_class: str) -> Select[Any]:
    table = schema.records
    return select(column).where(
        table.c.run_id == run_id,
        table.c.device_class == device_class,
        table.c.status == Status.OK.value,
        column.is_not(None),
    )
