"""Databases as earlier versions of bench made them, on SQLite and on PostgreSQL."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sqlalchemy import Connection, create_engine, text

from bench.digests import digest_strings
from bench.metrics import pack_predictions
from bench.record import PredictionSet
from bench.store.schema import parse_url

GOLDEN = Path(__file__).parent / "golden"
OLD_LAYOUTS = (1, 2, 3)


def packed_predictions() -> PredictionSet:
    """Return the predictions on test of each record of such a database."""
    ids, labels = ("a", "b", "c"), np.array([0, 1, 1])
    logits = np.array([[2.0, 1.0], [0.5, 1.5], [3.0, 0.0]])
    return pack_predictions("test", ids, digest_strings(ids), logits, labels)


def write_old_layout(url: str, layout: int, bodies: Sequence[str]) -> None:
    """Make an empty database one of that layout, with a run of the suite ``vision``.

    Args:
        url: See `open_store`.
        layout: One of `OLD_LAYOUTS`.
        bodies: Records of version 1 as JSON; each gets predictions, and the golden summary where
            that layout has summaries.
    """
    target = parse_url(url)
    sqlite = target.get_backend_name() == "sqlite"
    if sqlite:
        Path(str(target.database)).parent.mkdir(parents=True, exist_ok=True)
    name = f"layout_{layout}.sql" if sqlite else f"layout_{layout}_postgresql.sql"
    engine = create_engine(target, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in (GOLDEN / name).read_text().split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement)
        for number, body in enumerate(bodies, start=1):
            _write_record(connection, layout, number, body)
    engine.dispose()


def _write_record(connection: Connection, layout: int, number: int, body: str) -> None:
    _insert(
        connection,
        "records",
        run_id=1,
        cell_digest=f"cell {number}",
        request_key=f"request {number}",
        device_class="",
        status="ok",
        started_at="2026-01-02T03:04:05.000000+00:00",
        version=1,
        body=body,
        **({"token": f"{number:032}"} if layout >= 3 else {}),
    )
    if layout >= 2:
        short = (GOLDEN / "layout_2_summary.json").read_text()
        _insert(connection, "summaries", record_id=number, body=short)
    values = packed_predictions().model_dump()
    ids = {"ids_digest": values["ids_digest"], "ids": values.pop("ids")}
    if number == 1:
        _insert(connection, "prediction_ids", **ids)
    _insert(connection, "predictions", record_id=number, **values)


def _insert(connection: Connection, table: str, **values: object) -> None:
    names = ", ".join(values)
    places = ", ".join(f":{name}" for name in values)
    connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({places})"), values)
