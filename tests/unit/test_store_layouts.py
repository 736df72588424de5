"""How databases of older layouts are led to the present one; names no layout of today."""

from collections.abc import Callable

import numpy as np
import pytest
from sqlalchemy import Connection, inspect
from sqlalchemy.exc import OperationalError, ProgrammingError

from bench import open_store
from bench.errors import StoreError
from bench.metrics import outcome_bits
from bench.store import Store, check_store, look_at_store
from bench.store.schema import LAYOUT_VERSION, migrate
from bench.store.versions import dump_record, read_record
from bench.tables import summarise
from tests.old_layouts import GOLDEN, OLD_LAYOUTS, packed_predictions, write_old_layout
from tests.records import make_record


def _layout_of(store: Store) -> int:
    with store.reading() as connection:
        return connection.exec_driver_sql("SELECT version FROM bench_layout").scalar_one()


def _shape_of(store: Store) -> dict[str, tuple[dict[str, bool], set[tuple[str, ...]]]]:
    """Return table -> whether each column may be empty, and what is indexed."""
    found = inspect(store._engine)
    return {
        table: (
            {column["name"]: column["nullable"] for column in found.get_columns(table)},
            {tuple(map(str, index["column_names"])) for index in found.get_indexes(table)},
        )
        for table in found.get_table_names()
    }


def golden_body() -> str:
    return (GOLDEN / "record_v1.json").read_text()


@pytest.mark.parametrize("layout", OLD_LAYOUTS)
def test_an_old_database_is_led_to_the_present_layout_with_all_it_holds(
    store_url: str, layout: int
):
    write_old_layout(store_url, layout, [golden_body(), golden_body()])
    record = read_record(golden_body(), 1)
    with open_store(store_url, create=False) as store:
        assert _layout_of(store) == LAYOUT_VERSION
        assert [dump_record(back) for back in store.records("vision")] == [dump_record(record)] * 2
        assert summarise(store.summaries("vision")) == summarise([record, record])
        whole = store.whole_records(1)
        assert [back.predictions for back in whole] == [(packed_predictions(),)] * 2
        bits = [outcome_bits(back.outcomes) for back in store.summaries("vision")]
        assert [np.unpackbits(each, count=3).tolist() for each in bits] == [[1, 1, 0]] * 2
        assert check_store(store).problems == ()

        run = store.start_run("vision")
        assert run.id == 2
        added = make_record(run_id=run.id, predictions=True)
        assert store.add(added, token="f" * 32)
        assert not store.add(added, token="f" * 32)
        assert set(store.predictions(added)) == set(added.predictions)


@pytest.mark.parametrize("layout", OLD_LAYOUTS)
def test_an_old_database_ends_with_the_tables_of_a_new_one(
    new_store_url: Callable[[], str], layout: int
):
    old, new = new_store_url(), new_store_url()
    write_old_layout(old, layout, [golden_body()])
    with open_store(old) as led, open_store(new) as made:
        assert _shape_of(led) == _shape_of(made)


def test_a_look_at_an_old_database_leaves_it_as_it_is(store_url: str):
    write_old_layout(store_url, 1, [golden_body()])
    for _ in range(2):
        state = look_at_store(store_url)
        assert (state.layout, state.num_runs, state.num_records) == (1, 1, 1)
        assert state.problem is None


def test_an_unreadable_record_does_not_stop_a_migration_but_whoever_reads_it(store_url: str):
    write_old_layout(store_url, 1, [golden_body(), "{}"])
    unreadable = "a stored record of version 1 cannot be read: key"
    with open_store(store_url) as store, pytest.raises(StoreError, match=unreadable):
        store.summaries()


def test_a_database_of_a_newer_layout_is_refused(store_url: str, store: Store):
    with store.writing() as connection:
        connection.exec_driver_sql(f"UPDATE bench_layout SET version={LAYOUT_VERSION + 1}")
    known = f"has layout {LAYOUT_VERSION + 1}, this version of bench knows up to {LAYOUT_VERSION}"
    with pytest.raises(StoreError, match=known):
        open_store(store_url)
    problem = look_at_store(store_url).problem
    assert problem is not None and f"layout {LAYOUT_VERSION + 1} is newer than this" in problem


def test_an_older_layout_is_led_forward_step_by_step(store: Store):
    def fill(connection: Connection) -> None:
        connection.exec_driver_sql("UPDATE runs SET two = one || '!'")

    steps = {
        LAYOUT_VERSION: ("ALTER TABLE runs ADD COLUMN one TEXT DEFAULT 'x'",),
        LAYOUT_VERSION + 1: ("ALTER TABLE runs ADD COLUMN two TEXT", fill),
    }
    store.start_run("vision")
    for _ in range(2):  # The second time another process has done it.
        migrate(store._engine, steps, LAYOUT_VERSION + 2)
    with store.reading() as connection:
        assert connection.exec_driver_sql("SELECT two FROM runs").scalar() == "x!"
    assert _layout_of(store) == LAYOUT_VERSION + 2


def test_a_migration_that_fails_half_way_leaves_the_old_layout(store: Store):
    steps = {LAYOUT_VERSION: ("ALTER TABLE runs ADD COLUMN one TEXT", "SELECT absent FROM runs")}
    with pytest.raises((OperationalError, ProgrammingError), match="absent"):
        migrate(store._engine, steps, LAYOUT_VERSION + 1)
    assert _layout_of(store) == LAYOUT_VERSION
    assert "one" not in {column["name"] for column in inspect(store._engine).get_columns("runs")}
