"""Several processes and one store, on SQLite and PostgreSQL: none lost, none doubled."""

import pytest

from bench.store import Parcel, Spool, check_store, open_store
from tests.old_layouts import GOLDEN, OLD_LAYOUTS, write_old_layout
from tests.records import make_record
from tests.writers import go_at_once, open_and_write, sync_spool, write_records


@pytest.mark.slow
def test_two_processes_write_a_thousand_records_each_and_none_is_lost_or_doubled(store_url: str):
    with open_store(store_url) as store:
        store.start_run("vision")
        writers = [write_records(store_url, first, 1000) for first in (0, 1000)]
        go_at_once(writers)
        for writer in writers:
            writer.finish()
        check = check_store(store)
        assert (check.num_records, check.num_predictions, check.problems) == (2000, 4000, ())
        assert sorted(r.cell.seed for r in store.records()) == list(range(2000))


@pytest.mark.slow
def test_writers_that_are_killed_leave_whole_records_and_all_that_were_acknowledged(store_url: str):
    acknowledged: list[str] = []
    with open_store(store_url) as store:
        store.start_run("vision")
        for round_ in range(8):
            writer = write_records(store_url, 1000 * round_, 1000)
            go_at_once([writer])
            acknowledged += [writer.read_line() for _ in range(5 + 7 * round_)]
            acknowledged += writer.kill().split()
        check = check_store(store)
        seeds = [record.cell.seed for record in store.records()]
    assert check.problems == ()
    assert len(seeds) == len(set(seeds)) == check.num_records
    assert set(map(int, acknowledged)) <= set(seeds)
    # At most the one whose answer was cut off is there beside those.
    assert check.num_records <= len(acknowledged) + 8
    assert check.num_predictions == 2 * check.num_records


def test_processes_that_make_the_tables_at_once_all_find_them(store_url: str):
    writers = [open_and_write(store_url) for _ in range(4)]
    go_at_once(writers)
    for writer in writers:
        writer.finish()
    with open_store(store_url, create=False) as store:
        check = check_store(store)
    assert (check.num_runs, check.num_records, check.problems) == (4, 4, ())


@pytest.mark.parametrize("layout", OLD_LAYOUTS)
def test_processes_that_lead_an_old_layout_forward_at_once_do_it_once(store_url: str, layout: int):
    body = (GOLDEN / "record_v1.json").read_text()
    write_old_layout(store_url, layout, [body] * 50)
    writers = [open_and_write(store_url) for _ in range(3)]
    go_at_once(writers)
    for writer in writers:
        writer.finish()
    with open_store(store_url, create=False) as store:
        check = check_store(store)
    assert (check.num_runs, check.num_records, check.problems) == (4, 53, ())


@pytest.fixture
def spool_of_200(store_url: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> Spool:
    """A spool of records of one run that the store does not have yet."""
    monkeypatch.setenv("BENCH_SPOOL", str(tmp_path / "spool"))
    with open_store(str(tmp_path / "elsewhere.db")) as other:
        run = other.start_run("vision")
    with open_store(store_url) as store:
        spool = Spool(store.identity)
    for seed in range(200):
        record = make_record(seed=seed, run_id=run.id, predictions=True)
        spool.put(Parcel(f"{seed:032}", run, record))
    return spool


def check_all_200_are_there(store_url: str, spool: Spool) -> None:
    assert spool.paths() == []
    with open_store(store_url, create=False) as store:
        check = check_store(store)
        assert (check.num_runs, check.num_records, check.problems) == (1, 200, ())
        assert [record.cell.seed for record in store.records()] == list(range(200))


def test_a_sync_that_is_killed_half_way_is_ended_by_the_next_one(
    store_url: str, spool_of_200: Spool
):
    num_left = [200]
    while len(num_left) < 4:
        writer = sync_spool(store_url)
        go_at_once([writer])
        while len(spool_of_200.paths()) > num_left[-1] - 20:
            assert writer.process.poll() is None
        writer.kill()
        num_left.append(len(spool_of_200.paths()))
    assert num_left == sorted(set(num_left), reverse=True) and num_left[-1] > 0
    last = sync_spool(store_url)
    go_at_once([last])
    output = last.finish()
    assert output.startswith(f"{num_left[-1]} records delivered to ")
    assert output.endswith(", 0 left\n")
    check_all_200_are_there(store_url, spool_of_200)


def test_two_syncs_at_once_deliver_each_record_once_and_call_nothing_a_problem(
    store_url: str, spool_of_200: Spool
):
    syncs = [sync_spool(store_url) for _ in range(2)]
    go_at_once(syncs)
    for sync in syncs:
        (line,) = sync.finish().splitlines()
        assert line.endswith(", 0 left")
    check_all_200_are_there(store_url, spool_of_200)
