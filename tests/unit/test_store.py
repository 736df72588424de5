"""What a store keeps and gives back, on SQLite and PostgreSQL; and records as their JSON."""

import json
from pathlib import Path
from time import process_time

import pytest
from sqlalchemy import text

from bench import Record, open_store
from bench.errors import StoreError, UsageError
from bench.record import Status
from bench.report import write_report
from bench.store import Store, load_summaries
from bench.store.schema import LAYOUT_VERSION
from bench.store.versions import SummaryReader, dump_record, dump_summary, read_record, upgrade
from bench.summary import RecordSummary
from bench.tables import failed_cells, summarise
from tests.records import CPU, failed_records, make_record, vision_records

GOLDEN = Path(__file__).parents[1] / "golden"


def _run_with(store: Store, *records: Record) -> int:
    run = store.start_run("vision")
    for record in records:
        store.add(record.model_copy(update={"run_id": run.id}))
    return run.id


def test_a_record_comes_back_as_it_went_in(store: Store):
    record = make_record(strategy="full", fields={"learning_rate": [1e-3, 2e-3], "epochs": 3})
    run_id = _run_with(store, record)
    (back,) = store.records("vision")
    assert back == record.model_copy(update={"run_id": run_id})


def test_a_loss_that_is_not_finite_is_kept(store: Store):
    record = make_record(strategy="full")
    point = record.curve[0].model_copy(update={"train_loss": float("inf")})
    _run_with(store, record.model_copy(update={"curve": (point,)}))
    assert store.records()[0].curve[0].train_loss == float("inf")


def test_predictions_are_apart_and_their_ids_are_stored_once(store: Store):
    records = [make_record(seed=seed, predictions=True) for seed in (0, 1)]
    _run_with(store, *records)
    for back, record in zip(store.records(), records, strict=True):
        assert back.predictions == ()
        assert set(store.predictions(back)) == set(record.predictions)
    with store.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM prediction_ids")).scalar() == 2
        assert connection.execute(text("SELECT count(*) FROM predictions")).scalar() == 4


def test_a_record_without_predictions_has_none(store: Store):
    _run_with(store, make_record())
    assert store.predictions(store.records()[0]) == ()


def test_the_newest_record_of_a_cell_wins(store: Store):
    failed = make_record(status=Status.OOM)
    _run_with(store, failed, make_record(seed=1), make_record(accuracy=0.8))
    assert [(r.cell.seed, r.status) for r in store.records()] == [(1, "ok"), (0, "ok")]


def test_the_latest_run_of_each_suite_is_what_is_read(store: Store):
    first = _run_with(store, make_record(accuracy=0.5))
    second = _run_with(store, make_record(accuracy=0.6))
    other = store.start_run("other", note="by hand")
    store.add(make_record(run_id=other.id, suite="other"))
    assert [r.run_id for r in store.records()] == [second, other.id]
    assert [r.run_id for r in store.records("vision")] == [second]
    assert [r.run_id for r in store.records(run_id=first)] == [first]
    assert store.suites() == ["other", "vision"]
    assert [run.id for run in store.runs("vision")] == [first, second]
    assert store.latest_run("other") == other
    assert store.latest_run("none") is None
    assert len(other.scope) == 32


def test_find_takes_a_prefix_of_either_key(store: Store):
    record = make_record()
    _run_with(store, record, make_record(seed=1))
    assert [r.cell.seed for r in store.find(record.key[:12])] == [0]
    assert [r.cell.seed for r in store.find(record.request_key[:12])] == [0]
    assert store.find("%") == []


def test_a_record_is_got_by_the_first_digits_of_its_key(store: Store):
    _run_with(store, make_record(accuracy=0.1), make_record(accuracy=0.2))
    key = make_record().key
    assert store.get(key[:6]).test.accuracy == 0.2


def test_a_key_that_no_record_has_is_refused(store: Store):
    for prefix in ("ffff", ""):
        with pytest.raises(UsageError, match=f"no record with a key that begins with '{prefix}'"):
            store.get(prefix)


def test_a_prefix_of_several_cells_lists_them(store: Store):
    _run_with(store, *(make_record(seed=seed) for seed in range(40)))
    digit = store.records()[0].key[0]
    with pytest.raises(UsageError, match=rf"'{digit}' begins the keys of \d+ cells.*\n  {digit}"):
        store.get(digit)


def test_what_a_run_holds_is_ok_records_on_that_class_of_device(store: Store):
    ok, failed = make_record(), make_record(seed=1, status=Status.CRASHED)
    gpu = make_record(seed=2, device_class="cuda:Synthetic GPU")
    run_id = _run_with(store, ok, failed, gpu)
    assert store.ok_request_keys(run_id, CPU) == {ok.request_key}
    assert store.ok_keys(run_id, CPU) == {ok.key}
    assert store.ok_keys(run_id + 1, CPU) == frozenset()


def test_held_keys_can_be_asked_for_one_cell(store: Store):
    one, other = make_record(), make_record(seed=1)
    run_id = _run_with(store, one, other)
    assert store.ok_keys(run_id, CPU, cell=one.cell) == {one.key}


def test_records_can_be_limited_to_the_cells_a_suite_has_now(store: Store):
    kept, dropped = make_record(), make_record(seed=1)
    run_id = _run_with(store, kept, dropped)
    assert [r.cell.seed for r in store.records(run_id=run_id, cells=[kept.cell])] == [0]


def test_a_remembered_request_key_counts_while_its_key_is_ok(store: Store):
    ok, failed = make_record(), make_record(seed=1, status=Status.ERROR)
    run_id = _run_with(store, ok, failed)
    for _ in range(2):
        store.remember(run_id, "other stamps", ok.key, CPU)
    store.remember(run_id, "of a failure", failed.key, CPU)
    store.remember(run_id, "elsewhere", ok.key, "cuda:Synthetic GPU")
    assert store.ok_request_keys(run_id, CPU) == {ok.request_key, "other stamps"}


def test_readers_do_not_wait_for_a_writer(store_url: str, store: Store):
    _run_with(store, make_record())
    with open_store(store_url) as other, other.writing() as connection:
        connection.execute(text("UPDATE runs SET note = 'half written'"))
        assert len(store.records()) == 1
        assert store.latest_run("vision").note == ""
    assert store.latest_run("vision").note == "half written"


def test_a_failed_write_leaves_no_half_record(store: Store):
    record = make_record(predictions=True)
    twice = record.model_copy(update={"predictions": (*record.predictions, record.predictions[0])})
    with pytest.raises(StoreError, match=r"(?i)unique constraint"):
        _run_with(store, twice)
    assert store.records() == []


def test_a_summary_says_what_its_record_says(store_url: str, store: Store, tmp_path: Path):
    run = store.start_run("vision")
    for record in [*vision_records((0, 1), run_id=run.id), *failed_records()]:
        store.add(record.model_copy(update={"run_id": run.id}))
    whole, short = store.records(), store.summaries()
    assert {type(record) for record in short} == {RecordSummary}
    assert summarise(short) == summarise(whole)
    assert failed_cells(short) == failed_cells(whole)
    options = {"suite": "vision", "command": "bench run suites/vision.yaml"}
    pages = [
        write_report(records, tmp_path / name, **options).read_text()
        for name, records in (("whole", whole), ("short", short))
    ]
    assert pages[0] == pages[1]
    assert load_summaries("vision", url=store_url) == short
    assert store.summaries(cells=[whole[0].cell]) == short[:1]


def test_a_summary_is_a_fraction_of_its_record():
    record = make_record(strategy="full")
    short = json.loads(dump_summary(record))
    assert set(short) == set(RecordSummary.model_fields)
    assert "per_class" not in short["test"] and "points" not in short["selection"]
    assert len(dump_summary(record)) < 0.6 * len(dump_record(record))


def test_a_stored_summary_still_says_what_its_record_says():
    """Where it does not, a field moved: a new layout has to write the stored summaries anew."""
    stored = (GOLDEN / f"summary_layout_{LAYOUT_VERSION}.json").read_text()
    record = read_record((GOLDEN / "record_v1.json").read_text(), 1)
    assert SummaryReader().read(stored) == SummaryReader().read(dump_summary(record))


def test_a_record_stored_without_a_summary_is_read_whole(store: Store):
    _run_with(store, make_record(), make_record(seed=1))
    with store.writing() as connection:
        connection.exec_driver_sql("DELETE FROM summaries WHERE record_id = 1")
    first, second = store.summaries()
    assert [type(first), type(second)] == [Record, RecordSummary]


def test_a_summary_that_is_damaged_says_where():
    data = json.loads(dump_summary(make_record()))
    damaged = {
        "wall_seconds: ": json.dumps(data | {"wall_seconds": "long"}),
        "device_class: ": json.dumps(data | {"environment": {"cpu": 3}}),
        "EOF while parsing a string": dump_summary(make_record())[:50],
    }
    for where, body in damaged.items():
        with pytest.raises(StoreError, match=f"version 1 cannot be read: ({where})"):
            SummaryReader().read(body)


def test_parts_that_recur_are_shared_among_summaries(store: Store):
    _run_with(store, make_record(), make_record(seed=1), make_record(seed=2, dataset="mnist-5k"))
    first, second, third = store.summaries()
    assert first.environment is second.environment is third.environment
    assert first.cell.dataset is second.cell.dataset is not third.cell.dataset
    assert [record.cell.seed for record in (first, second, third)] == [0, 1, 2]


def test_a_record_of_version_1_is_still_read():
    body = (GOLDEN / "record_v1.json").read_text()
    record = read_record(body, 1)
    assert record.test is not None
    assert (record.cell.label, record.test.accuracy) == (
        "packaged/efficientnet-lite0 · digits · full · seed 0",
        0.975,
    )
    (row,) = summarise([record])
    assert (row.status, row.test_accuracy, row.latency_p50_seconds) == ("ok", 0.975, 0.006)


def test_the_golden_record_names_every_field_of_the_schema():
    data = json.loads((GOLDEN / "record_v1.json").read_text())
    assert set(data) == set(Record.model_fields) - {"predictions", "outcomes"}


def test_record_migrations_are_chained():
    steps = {1: lambda d: d | {"a": 1}, 2: lambda d: d | {"b": d["a"] + 1}}
    assert upgrade({}, 1, steps, 3) == {"a": 1, "b": 2, "schema_version": 3}


def test_a_record_of_a_newer_schema_is_refused():
    with pytest.raises(StoreError, match=r"schema version 99; .* reads up to 1. Upgrade"):
        read_record("{}", 99)


def test_a_version_without_a_step_is_refused():
    with pytest.raises(StoreError, match="no way to read a record of schema version 0"):
        upgrade({}, 0, {}, 1)


def test_a_stored_record_that_is_damaged_names_the_field():
    data = json.loads(dump_record(make_record())) | {"wall_seconds": "long"}
    with pytest.raises(StoreError, match="version 1 cannot be read: wall_seconds: "):
        read_record(json.dumps(data))


@pytest.mark.timed
def test_stored_records_become_rows_at_two_thousand_a_second(tmp_path: Path):
    with open_store(str(tmp_path / "bench.db")) as store:
        run = store.start_run("vision")
        with store.reading() as connection:
            connection.exec_driver_sql("PRAGMA synchronous=OFF")
        for record in vision_records(tuple(range(20)), run_id=run.id):
            store.add(record)
        seconds = []
        for _ in range(9):
            began = process_time()
            assert len(summarise(store.records())) == 20
            seconds.append(process_time() - began)
        assert min(seconds) < 0.2
