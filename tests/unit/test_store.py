import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from time import process_time

import numpy as np
import pytest
from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.exc import OperationalError

from bench import Record, load_records, open_store
from bench.digests import digest_strings
from bench.errors import StoreError, SuiteLockedError, UsageError
from bench.metrics import outcome_bits, pack_outcomes
from bench.record import Status
from bench.report import write_report
from bench.store import Store, load_summaries
from bench.store.migrations import LAYOUT_MIGRATIONS
from bench.store.schema import LAYOUT_VERSION, migrate, parse_url
from bench.store.versions import SummaryReader, dump_record, dump_summary, read_record, upgrade
from bench.summary import RecordSummary
from bench.tables import failed_cells, summarise
from tests.records import CPU, as_layout_3, failed_records, make_record, vision_records

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results" / "bench.db"


@pytest.fixture
def store(path: Path):
    with open_store(str(path)) as opened:
        yield opened


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
    engine = create_engine(f"sqlite:///{store.name}")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM prediction_ids")).scalar() == 2
        assert connection.execute(text("SELECT count(*) FROM predictions")).scalar() == 4
    engine.dispose()


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


def test_a_missing_database_is_named_with_the_command_that_makes_one(path: Path):
    with pytest.raises(StoreError, match=r"no results in .*bench\.db yet.*bench run suites/"):
        open_store(str(path), create=False)
    assert not path.parent.exists()


def test_a_database_without_our_tables_has_no_results(tmp_path: Path):
    (tmp_path / "empty.db").touch()
    with pytest.raises(StoreError, match="no results in"):
        open_store(str(tmp_path / "empty.db"), create=False)


def test_the_environment_names_the_store(path: Path, store: Store, monkeypatch: pytest.MonkeyPatch):
    _run_with(store, make_record())
    monkeypatch.setenv("BENCH_STORE", f"sqlite:///{path}")
    assert len(load_records("vision")) == 1


def test_an_unknown_suite_is_named_with_the_nearest(path: Path, store: Store):
    store.start_run("vision")
    message = r"no results of suite 'visoin'.*Did you mean 'vision'\? Known: vision\."
    with pytest.raises(UsageError, match=message):
        load_records("visoin", url=str(path))


def test_the_python_api_reads_every_suite(path: Path, store: Store):
    _run_with(store, make_record())
    assert len(load_records(url=str(path))) == 1


def test_a_url_that_is_none_says_what_to_write():
    with pytest.raises(StoreError, match=r"'://x' is not a database URL. Write a file name"):
        parse_url("://x")


def test_a_driver_that_is_not_installed_is_named():
    with pytest.raises(StoreError, match="no driver for postgresql"):
        open_store("postgresql+pg8000://host/name")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path):
    (tmp_path / "x.db").write_text("hello " * 500)
    with pytest.raises(StoreError, match=r"not a database. Move the file away"):
        open_store(str(tmp_path / "x.db"))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot open .*file/bench.db"):
        open_store(str(tmp_path / "file" / "bench.db"))


def test_a_full_disk_loses_nothing_that_was_stored(store: Store):
    run_id = _run_with(store, make_record())
    with store._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    big = make_record(seed=1, run_id=run_id, class_names=tuple(map(str, range(1000))))
    with pytest.raises(StoreError, match=r"disk is full. Free some space and re-issue"):
        store.add(big)
    assert len(store.records()) == 1


def test_a_read_only_database_says_so(store: Store):
    with store._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only=ON")
    with pytest.raises(StoreError, match=r"readonly database. Its file or folder is read-only"):
        store.start_run("vision")


def test_a_locked_database_says_so(store: Store):
    with store._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=50")
    other = create_engine(f"sqlite:///{store.name}")
    with other.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"database is locked. Another process is writing"):
            store.start_run("vision")
    other.dispose()


def test_readers_do_not_wait_for_a_writer(store: Store):
    _run_with(store, make_record())
    writer = create_engine(f"sqlite:///{store.name}")
    with writer.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        assert len(store.records()) == 1
    writer.dispose()


def test_a_failed_write_leaves_no_half_record(store: Store):
    record = make_record(predictions=True)
    twice = record.model_copy(update={"predictions": (*record.predictions, record.predictions[0])})
    with pytest.raises(StoreError, match="UNIQUE"):
        _run_with(store, twice)
    assert store.records() == []


def test_a_database_of_a_newer_layout_is_refused(path: Path, store: Store):
    with store._engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE bench_layout SET version={LAYOUT_VERSION + 1}")
    known = f"has layout {LAYOUT_VERSION + 1}, this version of bench knows up to {LAYOUT_VERSION}"
    with pytest.raises(StoreError, match=known):
        open_store(str(path))


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
    with store._engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT two FROM runs").scalar() == "x!"
    assert _layout_of(store) == LAYOUT_VERSION + 2


def test_a_migration_that_fails_half_way_leaves_the_old_layout(store: Store):
    steps = {LAYOUT_VERSION: ("ALTER TABLE runs ADD COLUMN one TEXT", "SELECT absent FROM runs")}
    with pytest.raises(OperationalError, match="no such column: absent"):
        migrate(store._engine, steps, LAYOUT_VERSION + 1)
    assert _layout_of(store) == LAYOUT_VERSION
    assert "one" not in {column["name"] for column in inspect(store._engine).get_columns("runs")}


def _layout_of(store: Store) -> int:
    with store._engine.connect() as connection:
        return connection.exec_driver_sql("SELECT version FROM bench_layout").scalar_one()


def _write_layout_1(path: Path, *bodies: str) -> None:
    """Make a database as the first version of bench did, with these records in one run."""
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as database:
        database.executescript((GOLDEN / "layout_1.sql").read_text())
        for number, body in enumerate(bodies):
            database.execute(
                "INSERT INTO records (run_id, cell_digest, request_key, device_class, status, "
                "started_at, version, body) VALUES (1, ?, ?, '', 'ok', '', 1, ?)",
                (f"cell {number}", f"request {number}", body),
            )
            database.execute(
                "INSERT INTO predictions (record_id, split, num_examples, ids_digest, labels, "
                "predicted, true_probability, top5) VALUES (?, 'test', 3, 'd', ?, ?, '', '')",
                (number + 1, bytes(12), bytes([0] * 8 + [1] * 4)),
            )
        database.commit()


def test_a_database_of_the_first_layout_is_led_forward_with_its_records(path: Path):
    bodies = [(GOLDEN / "record_v1.json").read_text(), dump_record(make_record())]
    _write_layout_1(path, *bodies)
    with open_store(str(path), create=False) as store:
        assert _layout_of(store) == LAYOUT_VERSION
        two_of_three = pack_outcomes("d", bytes(12), bytes([0] * 8 + [1] * 4))
        expected = [
            dump_summary(read_record(body).model_copy(update={"outcomes": two_of_three}))
            for body in bodies
        ]
        with store._engine.connect() as connection:
            short = connection.exec_driver_sql("SELECT body FROM summaries ORDER BY record_id")
            assert list(short.scalars()) == expected
        assert [_right(record) for record in store.summaries()] == ["110", "110"]
        assert summarise(store.summaries("vision")) == summarise(map(read_record, bodies))
        assert [dump_record(record) for record in store.records()][1] == bodies[1]
        store.add(make_record(seed=1, run_id=1))
        assert len(store.summaries()) == 3


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


def test_an_unreadable_record_does_not_stop_a_migration_but_whoever_reads_it(path: Path):
    _write_layout_1(path, dump_record(make_record()), "{}")
    with (
        open_store(str(path)) as store,
        pytest.raises(StoreError, match="a stored record of version 1 cannot be read: key"),
    ):
        store.summaries()


def test_a_summary_says_what_its_record_says(path: Path, store: Store, tmp_path: Path):
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
    assert load_summaries("vision", url=str(path)) == short
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
    with store._engine.begin() as connection:
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


def test_a_suite_is_held_once_and_others_are_not(path: Path, store: Store):
    with open_store(str(path)) as second, store.lock("vision"):
        with second.lock("other"):
            pass
        held = rf"suite 'vision' is being run by process {os.getpid()} on .* since 20"
        with pytest.raises(SuiteLockedError, match=held), second.lock("vision"):
            pass
    with store.lock("vision"):
        pass


def test_a_lock_is_released_when_its_runner_fails(store: Store):
    with pytest.raises(ZeroDivisionError), store.lock("vision"):
        raise ZeroDivisionError
    with store.lock("vision"):
        pass


HOLD = """
import sys, time
from bench.store import open_store
with open_store(sys.argv[1]) as store, store.lock("vision"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_killed_process_is_taken_over(path: Path, store: Store):
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        with pytest.raises(SuiteLockedError, match=f"process {child.pid} "), store.lock("vision"):
            pass
        os.kill(child.pid, signal.SIGKILL)
    with store.lock("vision"):
        pass


def test_a_lock_whose_process_number_was_given_to_another_is_taken_over(store: Store):
    with store.lock("vision"):
        with store._engine.begin() as connection:
            connection.exec_driver_sql("UPDATE locks SET process_started = process_started - 100")
        with store.lock("vision"):
            pass


def test_a_lock_of_another_host_says_how_to_free_it(store: Store):
    with store.lock("vision"):
        with store._engine.begin() as connection:
            connection.exec_driver_sql("UPDATE locks SET host = 'elsewhere', pid = 1")
        with (
            pytest.raises(
                SuiteLockedError, match=r"on elsewhere since .*: DELETE FROM locks WHERE"
            ),
            store.lock("vision"),
        ):
            pass


def test_stored_records_become_rows_at_two_thousand_a_second(store: Store):
    run = store.start_run("vision")
    with store._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA synchronous=OFF")
    for record in vision_records(tuple(range(20)), run_id=run.id):
        store.add(record)
    began = process_time()
    assert len(summarise(store.records())) == 20
    assert process_time() - began < 0.2
