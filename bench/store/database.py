"""The store: records and their predictions, of runs; knows no other machine and no patience."""

import uuid
from collections.abc import Iterable
from typing import Any, TypeVar

from sqlalchemy import Row, Select, and_, case, func, or_, select

from bench.errors import UsageError
from bench.record import SCHEMA_VERSION, PredictionSet, Record
from bench.spec import Cell
from bench.store import rows, schema
from bench.store.runs import Runs
from bench.store.spool import Parcel
from bench.store.versions import SummaryReader, read_record
from bench.summary import RecordSummary

R = TypeVar("R", bound=RecordSummary)


class Store(Runs):
    """The database of records; a context manager that closes it."""

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
        with self.writing() as connection:
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
        with self.writing() as connection:
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
        return _only(self._read_each(query, _record_of), cells)

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

        def read(row: Row[Any]) -> RecordSummary:
            return _record_of(row) if row.summary is None else reader.read(row.summary)

        return _only(self._read_each(query, read), cells)

    def _newest_ids(self, suite: str | None, run_id: int | None) -> Select[Any]:
        table = schema.records
        chosen = [run_id] if run_id is not None else self._latest_run_ids(suite)
        return (
            select(func.max(table.c.id))
            .where(table.c.run_id.in_(chosen))
            .group_by(table.c.run_id, table.c.cell_digest)
        )

    def find(self, key_prefix: str) -> list[Record]:
        """Return every record whose key or request key begins so, oldest first."""
        table = schema.records
        matches = or_(
            table.c.key.startswith(key_prefix, autoescape=True),
            table.c.request_key.startswith(key_prefix, autoescape=True),
        )
        query = select(table).where(matches).order_by(table.c.id)
        return self._read_each(query, _record_of)

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

    def one_per_dataset(self, summaries: Iterable[RecordSummary]) -> list[Record]:
        """Return a whole record per dataset of some stored summaries, without predictions.

        It is of an `ok` cell; of one that had a val split where there is any.
        """
        chosen: dict[str, RecordSummary] = {}
        for summary in summaries:
            held = chosen.get(summary.cell.dataset.label)
            if summary.data is not None and (
                held is None or (held.val is None and summary.val is not None)
            ):
                chosen[summary.cell.dataset.label] = summary
        table = schema.records
        found: list[Record] = []
        for summary in chosen.values():
            same = (
                table.c.run_id == summary.run_id,
                table.c.request_key == summary.request_key,
                table.c.started_at == rows.timestamp(summary.started_at),
            )
            found += self._read_each(select(table).where(*same).limit(1), _record_of)
        return found

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
        return tuple(_predictions_of(row) for row in self._fetch(query))

    def whole_records(self, run_id: int) -> list[Record]:
        """Return what `records` does of a run, with the predictions on the test split."""
        table, owner = schema.predictions, schema.records
        newest = self._newest_ids(None, run_id)
        wanted = table.c.record_id.in_(newest), table.c.split == "test"
        query = select(table, schema.prediction_ids.c.ids).join(schema.prediction_ids)

        def unpack(row: Row[Any]) -> tuple[int, PredictionSet]:
            return row.record_id, _predictions_of(row)

        packed = dict(self._read_each(query.where(*wanted), unpack))

        def read(row: Row[Any]) -> Record:
            own = (packed[row.id],) if row.id in packed else ()
            return _record_of(row).model_copy(update={"predictions": own})

        return self._read_each(
            select(owner).where(owner.c.id.in_(newest)).order_by(owner.c.id), read
        )


def _record_of(row: Row[Any]) -> Record:
    return read_record(row.body, row.version)


def _predictions_of(row: Row[Any]) -> PredictionSet:
    return PredictionSet(**{name: getattr(row, name) for name in PredictionSet.model_fields})


def _only(records: list[R], cells: Iterable[Cell] | None) -> list[R]:
    """Return the records of those cells, by what they are now read as: a spec may have grown."""
    if cells is None:
        return records
    wanted = {rows.cell_digest(cell) for cell in cells}
    return [record for record in records if rows.cell_digest(record.cell) in wanted]
