"""Runs of suites: who holds one, and what each has measured already; knows no record's content."""

import uuid
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any

from sqlalchemy import Row, Select, func, insert, select

from bench.errors import StoreError, UsageError
from bench.record import Status
from bench.spec import Cell
from bench.store import locks, rows, schema
from bench.store.access import Database
from bench.store.spool import RunInfo


class Runs(Database):
    """The runs of a database."""

    def start_run(self, suite: str, *, note: str = "") -> RunInfo:
        """Begin a new run of a suite; it becomes the suite's latest."""
        scope, now = uuid.uuid4().hex, datetime.now(UTC)
        statement = insert(schema.runs).values(
            scope=scope, suite=suite, note=note, started_at=now.isoformat()
        )
        with self.writing() as connection:
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

    def _latest_run_ids(self, suite: str | None) -> list[int]:
        table = schema.runs
        query = select(func.max(table.c.id).label("id")).group_by(table.c.suite)
        if suite is not None:
            query = query.where(table.c.suite == suite)
        return [row.id for row in self._fetch(query)]

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
        with self.writing() as connection:
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


def _ok_of_run(column: Any, run_id: int, device_class: str) -> Select[Any]:
    table = schema.records
    return select(column).where(
        table.c.run_id == run_id,
        table.c.device_class == device_class,
        table.c.status == Status.OK.value,
        column.is_not(None),
    )
