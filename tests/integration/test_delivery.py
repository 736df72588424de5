"""Records that find no store: what is said, what is kept, and that it arrives once."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bench.errors import StoreError, StoreUnavailableError
from bench.store import Delivery, Parcel, RunInfo, Spool, Store, check_store, open_store
from tests.postgres import Server, start_server
from tests.records import make_record
from tests.stores import forbid_writes


@dataclass
class Desk:
    """A store with a run, a spool of its own, and what people were told."""

    store: Store
    run: RunInfo
    spool: Spool
    patience: float = 0.1
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.delivery = Delivery(
            self.store, spool=self.spool, patience=self.patience, say=self.said.append
        )

    def keep(self, seed: int) -> bool:
        record = make_record(seed=seed, run_id=self.run.id, predictions=True)
        return self.delivery.keep(record, self.run)

    def seeds(self) -> list[int]:
        return [record.cell.seed for record in self.store.records()]


@pytest.fixture
def desk(store: Store, tmp_path: Path) -> Desk:
    return Desk(store, store.start_run("vision"), Spool(store.identity, tmp_path / "spool"))


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


def test_a_read_only_store_is_waited_for_and_then_records_are_spooled_in_order(desk: Desk):
    forbid_writes(desk.store)
    assert [desk.keep(seed) for seed in range(3)] == [False] * 3
    assert desk.seeds() == []
    assert len(desk.spool.paths()) == 3
    forbid_writes(desk.store, False)
    assert desk.keep(3)
    assert desk.seeds() == [0, 1, 2, 3]
    assert desk.spool.paths() == []


def test_a_lost_store_is_said_once_and_so_is_its_return(desk: Desk):
    forbid_writes(desk.store)
    for seed in range(3):
        desk.keep(seed)
    waiting, lost = desk.said
    assert "read" in waiting and waiting.endswith(" Trying again, for up to 0.1 s.")
    assert lost == (
        f"{desk.store.name} took nothing for 0.1 s. Until it takes records again they are kept in "
        f"{desk.spool.folder}; deliver them with: bench store sync"
    )
    forbid_writes(desk.store, False)
    for seed in (3, 4):
        desk.keep(seed)
    assert desk.said[2:] == [f"{desk.store.name} takes records again."]
    forbid_writes(desk.store)
    desk.keep(5)
    assert len(desk.said) == 5


def test_without_patience_the_one_message_says_why(store: Store, tmp_path: Path):
    spool = Spool(store.identity, tmp_path / "spool")
    desk = Desk(store, store.start_run("vision"), spool, patience=0.0)
    forbid_writes(store)
    desk.keep(0)
    (only,) = desk.said
    assert only.startswith("cannot write to ")
    assert "Until it takes records again they are kept in" in only


def test_a_store_that_answers_but_takes_nothing_is_not_waited_for_again(desk: Desk):
    forbid_writes(desk.store)
    desk.keep(0)
    assert desk.delivery.attempt(lambda: desk.store.runs("vision")) == [desk.run]
    slept: list[float] = []
    desk.delivery._sleep = slept.append
    desk.keep(1)
    assert slept == []


def test_a_record_that_the_store_refuses_is_spooled_and_said_each_time(desk: Desk):
    record = make_record(run_id=99)  # Of a run that the store does not have.
    for _ in range(2):
        assert not desk.delivery.keep(record, desk.run)
    assert len(desk.said) == 2
    for message in desk.said:
        assert "foreign key" in message.lower()
        assert f"The record is kept in {desk.spool.folder}" in message
        assert message.endswith(".json; deliver it with: bench store sync")
    # It comes with what a parcel says of its run.
    assert desk.delivery.deliver().num_left == 0


def test_where_neither_store_nor_spool_takes_a_record_both_are_named(store: Store, tmp_path: Path):
    (tmp_path / "spool").touch()
    desk = Desk(store, store.start_run("vision"), Spool(store.identity, tmp_path / "spool"))
    forbid_writes(store)
    with pytest.raises(StoreError, match=r"cannot write to .* cannot spool a record in .*spool"):
        desk.keep(0)


def test_an_interrupt_while_the_store_is_waited_for_loses_no_record(desk: Desk):
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    desk.delivery._sleep = interrupt
    forbid_writes(desk.store)
    with pytest.raises(KeyboardInterrupt):
        desk.keep(0)
    assert len(desk.spool.paths()) == 1
    assert "The record is kept in" in desk.said[-1]


def test_a_damaged_parcel_is_named_and_left_and_does_not_stop_the_others(desk: Desk):
    desk.spool.put(Parcel("a" * 32, desk.run, make_record(run_id=desk.run.id)))
    (desk.spool.folder / "0-bad.json").write_text("{")
    done = desk.delivery.deliver()
    assert (done.num_delivered, done.num_left) == (1, 1)
    assert "0-bad.json is damaged" in done.problems[0]


def test_a_parcel_that_another_process_brought_meanwhile_is_no_problem(desk: Desk):
    path = desk.spool.put(Parcel("a" * 32, desk.run, make_record(run_id=desk.run.id)))
    path.unlink()
    assert desk.delivery._bring(path) is None


@pytest.fixture
def server():
    server = start_server()
    yield server
    server.close()


@pytest.fixture
def served(server: Server, tmp_path: Path):
    with open_store(server.url) as store:
        yield Desk(store, store.start_run("vision"), Spool(store.identity, tmp_path), patience=1.0)


def test_a_server_that_stops_costs_no_record(server: Server, served: Desk):
    assert served.keep(0)
    server.stop()
    assert [served.keep(1), served.keep(2)] == [False, False]
    with pytest.raises(StoreUnavailableError, match="Is the server running"):
        served.store.runs("vision")
    server.start()
    assert served.keep(3)
    assert served.seeds() == [0, 1, 2, 3]
    assert len(served.said) == 3


def test_a_server_that_became_a_standby_costs_no_record(server: Server, served: Desk):
    assert served.keep(0)
    server.stand_by()
    assert not served.keep(1)
    assert "The server takes no writes now, as a standby does" in served.said[0]
    assert served.seeds() == [0]
    server.promote()
    assert served.keep(2)
    assert served.seeds() == [0, 1, 2]
    assert check_store(served.store).problems == ()
