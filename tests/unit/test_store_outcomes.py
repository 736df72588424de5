"""Which test examples a summary says are right; knows the store, not what is made of it."""

import json

import numpy as np
from sqlalchemy import text

from bench.digests import digest_strings
from bench.metrics import outcome_bits
from bench.record import Record
from bench.store import Store
from bench.store.migrations import LAYOUT_MIGRATIONS
from bench.store.schema import LAYOUT_VERSION, migrate
from bench.store.versions import dump_record
from bench.summary import RecordSummary
from tests.records import as_layout_3, make_record


def _run_with(store: Store, *records: Record) -> None:
    run = store.start_run("vision")
    for record in records:
        store.add(record.model_copy(update={"run_id": run.id}))


def _layout_of(store: Store) -> int:
    with store.reading() as connection:
        return connection.exec_driver_sql("SELECT version FROM bench_layout").scalar_one()


def _told_record(seed: int, *, right: str) -> Record:
    """Return a record with predictions on val, all right, and on test, right as the digits say."""
    record = make_record(seed=seed, predictions=True)
    labels = np.arange(len(right), dtype="<i4")
    predicted = np.where(np.array(list(right)) == "1", labels, -1).astype("<i4")
    changes = {
        "num_examples": len(right),
        "labels": labels.tobytes(),
        "predicted": predicted.tobytes(),
    }
    by_split = {packed.split: packed for packed in record.predictions}
    test = by_split["test"].model_copy(update=changes)
    return record.model_copy(update={"predictions": (by_split["val"], test)})


def _right(summary: RecordSummary) -> str:
    bits = np.unpackbits(outcome_bits(summary.outcomes), count=summary.outcomes.num_examples)
    return "".join(map(str, bits))


def test_a_summary_holds_which_test_examples_are_right_and_the_record_does_not(store: Store):
    _run_with(store, _told_record(0, right="1101000001"), make_record(seed=1))
    told, untold = store.summaries()
    assert _right(told) == "1101000001"
    assert told.outcomes.ids_digest == digest_strings(["test"])
    assert untold.outcomes is None
    assert "outcomes" not in json.loads(dump_record(_told_record(0, right="1")))
    assert [record.outcomes for record in store.records()] == [None, None]


def test_a_store_of_layout_3_gets_its_outcomes_from_the_predictions(store: Store):
    patterns = [f"{number:08b}" for number in range(250)]
    told = [_told_record(seed, right=right) for seed, right in enumerate(patterns)]
    _run_with(store, *told, make_record(seed=1000))
    expected = store.summaries()
    as_layout_3(store)
    assert all(record.outcomes is None for record in store.summaries())
    migrate(store._engine, LAYOUT_MIGRATIONS, LAYOUT_VERSION)
    assert _layout_of(store) == LAYOUT_VERSION
    assert store.summaries() == expected
    assert [_right(record) for record in store.summaries()[:-1]] == patterns


def test_damaged_predictions_leave_a_summary_without_outcomes(store: Store):
    _run_with(store, _told_record(0, right="101"), _told_record(1, right="101"))
    as_layout_3(store)
    with store._engine.begin() as connection:
        damage = text("UPDATE predictions SET labels = :labels WHERE record_id = 1")
        connection.execute(damage, {"labels": b"odd"})
    migrate(store._engine, LAYOUT_MIGRATIONS, LAYOUT_VERSION)
    damaged, whole = store.summaries()
    assert (damaged.outcomes, _right(whole)) == (None, "101")
