import subprocess
import sys
from pathlib import Path

import pytest

from bench.errors import StoreUnavailableError
from bench.store import Delivery, Parcel, Spool, check_store, open_store
from tests.postgres import start_server
from tests.records import make_record

WRITE = """
import sys
from bench.store import open_store
from tests.records import make_record
url, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with open_store(url) as store:
    run = store.latest_run("vision")
    for number in range(count):
        wish = {"seed": seed + number, "run_id": run.id, "predictions": True}
        store.add(make_record(**wish))
        print(seed + number, flush=True)
"""
ROOT = Path(__file__).parents[2]


def start_writer(url: str, seed: int, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITE, url, str(seed), str(count)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_write_a_thousand_records_each_and_none_is_lost_or_doubled(store_url: str):
    with open_store(store_url) as store:
        store.start_run("vision")
        writers = [start_writer(store_url, seed, 1000) for seed in (0, 1000)]
        for writer in writers:
            writer.communicate(timeout=280)
            assert writer.returncode == 0
        check = check_store(store)
        assert (check.num_records, check.num_predictions, check.problems) == (2000, 4000, ())
        assert sorted(r.cell.seed for r in store.records()) == list(range(2000))


@pytest.mark.slow
def test_writers_that_are_killed_leave_whole_records_and_all_that_were_acknowledged(store_url: str):
    acknowledged = 0
    with open_store(store_url) as store:
        store.start_run("vision")
        for round_ in range(8):
            writer = start_writer(store_url, 1000 * round_, 1000)
            for _ in range(5 + 7 * round_):
                writer.stdout.readline()
                acknowledged += 1
            writer.kill()
            acknowledged += len(writer.communicate()[0].splitlines())
        check = check_store(store)
        assert check.problems == ()
        assert acknowledged <= check.num_records <= acknowledged + 8
        assert check.num_predictions == 2 * check.num_records


def test_a_parcel_that_arrives_twice_is_stored_once_with_its_run(store_url: str, tmp_path: Path):
    with open_store(str(tmp_path / "other.db")) as other, open_store(store_url) as store:
        run = other.start_run("vision", note="by night")
        record = make_record(run_id=run.id, predictions=True)
        spool = Spool("x", tmp_path)
        parcel = spool.read(spool.put(Parcel("t" * 32, run, record)))
        store.start_run("vision")  # So that numbers of runs differ.
        assert [store.deliver(parcel), store.deliver(parcel)] == [True, False]
        (back,) = store.records("vision")
        assert back == record.model_copy(update={"run_id": 2, "predictions": ()})
        assert set(store.predictions(back)) == set(record.predictions)
        assert store.latest_run("vision").scope == run.scope


def test_a_read_only_sqlite_store_is_waited_for_and_then_the_record_is_spooled(tmp_path: Path):
    said: list[str] = []
    with open_store(str(tmp_path / "bench.db")) as store:
        run = store.start_run("vision")
        spool = Spool(store.identity, tmp_path / "spool")
        delivery = Delivery(store, spool=spool, patience=0.2, say=said.append)
        with store._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA query_only=ON")
        assert not delivery.keep(make_record(run_id=run.id), run)
        assert "readonly" in said[0] and "Trying again, for 0 s more" in said[0]
        assert "deliver it with: bench store sync" in said[-1]
        with store._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA query_only=OFF")
        assert delivery.keep(make_record(seed=1, run_id=run.id), run)
        assert [record.cell.seed for record in store.records()] == [0, 1]
        assert spool.paths() == []


def test_a_damaged_parcel_is_named_and_left_and_does_not_stop_the_others(tmp_path: Path):
    with open_store(str(tmp_path / "bench.db")) as store:
        run = store.start_run("vision")
        spool = Spool(store.identity, tmp_path / "spool")
        spool.put(Parcel("a" * 32, run, make_record(run_id=run.id)))
        (spool.folder / "0-bad.json").write_text("{")
        done = Delivery(store, spool=spool, patience=0).deliver()
        assert (done.num_delivered, done.num_left) == (1, 1)
        assert "0-bad.json is damaged" in done.problems[0]


def test_a_server_that_stops_costs_no_record(tmp_path: Path):
    server = start_server()
    try:
        with open_store(server.url) as store:
            run = store.start_run("vision")
            spool = Spool(store.identity, tmp_path)
            delivery = Delivery(store, spool=spool, patience=1.0)
            assert delivery.keep(make_record(run_id=run.id), run)
            server.stop()
            assert not delivery.keep(make_record(seed=1, run_id=run.id), run)
            with pytest.raises(StoreUnavailableError, match="Is the server running"):
                store.runs("vision")
            server.start()
            assert delivery.keep(make_record(seed=2, run_id=run.id), run)
            assert [record.cell.seed for record in store.records()] == [0, 1, 2]
    finally:
        server.close()
