"""A real `bench run` whose PostgreSQL server stops in the middle of the sweep."""

from pathlib import Path

import pytest

from bench.errors import StoreError
from bench.store import open_store
from tests.faults import wait_until
from tests.integration.test_run_cli import Desk
from tests.postgres import Server, start_server

SUITE = """
name: lost
backbones: [plain/pixels]
datasets: [{name: digits, train_examples: 200}]
strategies: [linear_probe]
seeds: [0, 1, 2]
image_size: 8
limits: {profile_time: 0.2s}
"""
LOOSE = "accuracy=90pt,throughput=95%,latency=99%,memory=99%"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    (tmp_path / "lost.yaml").write_text(SUITE)
    return Desk(tmp_path)


@pytest.fixture
def server():
    server = start_server()
    yield server
    server.close()


def _num_stored(url: str, run_id: int) -> int:
    try:
        with open_store(url, create=False) as store:
            return len(store.records("lost", run_id))
    except StoreError:
        return 0  # The run has not made the tables yet.


def _run_until_the_server_stops(desk: Desk, server: Server, run_id: int, *options: str):
    """Return how a run ended whose server stopped after its first record."""
    process = desk.start(
        "run", "lost.yaml", "--store", server.url, *options, BENCH_STORE_PATIENCE="0.5s"
    )
    assert wait_until(lambda: _num_stored(server.url, run_id), 120)
    server.stop()
    output, errors = process.communicate(timeout=200)
    assert "Traceback" not in output + errors
    return process.returncode, output, errors


@pytest.mark.slow
def test_a_sweep_whose_server_stops_goes_on_and_nothing_is_measured_again(
    desk: Desk, server: Server
):
    code, output, errors = _run_until_the_server_stops(desk, server, 1)
    assert code == 3
    assert "run 1: 3 cells run" in output
    assert errors.count("Trying again, for up to 0.5 s.") == 1
    assert errors.count("Until it takes records again they are kept in") == 1
    waiting = desk.bench("store", "sync", "--store", server.url)
    assert waiting.returncode == 3
    assert "0 records delivered, " in waiting.stdout

    server.start()
    num_left = 3 - _num_stored(server.url, 1)
    assert num_left > 0
    assert f"{num_left} records could not be delivered to the store and are kept here" in output
    assert f"0 records delivered, {num_left} wait in" in waiting.stdout
    synced = desk.bench("store", "sync", "--store", server.url)
    assert (synced.returncode, synced.stderr) == (0, "")
    assert f"{num_left} records delivered to " in synced.stdout
    again = desk.bench("run", "lost.yaml", "--store", server.url)
    assert again.returncode == 0, again.stderr
    assert "run 1: 0 cells run, 3 held from before" in again.stdout


@pytest.mark.slow
def test_a_night_whose_store_is_lost_is_not_judged_and_says_what_to_do(desk: Desk, server: Server):
    store = ("--store", server.url)
    assert desk.bench("run", "lost.yaml", *store).returncode == 0
    assert desk.bench("baseline", "save", "main", "--from", "lost", *store).returncode == 0
    against = ("--against", "main", "--min-effect", LOOSE)
    code, output, errors = _run_until_the_server_stops(desk, server, 2, *against)
    assert code == 3
    assert "run 2: 3 cells run" in output
    assert errors.count("error: ") == 1
    assert "error: this run was not judged by main: cannot read postgresql" in errors
    assert "bench store sync, then bench compare main\n" in errors
    assert (desk.folder / "report" / "lost" / "index.html").exists()
    assert not (desk.folder / "report" / "lost" / "gate.md").exists()

    server.start()
    assert desk.bench("store", "sync", *store).returncode == 0
    judged = desk.bench("compare", "main", *store, "--min-effect", LOOSE)
    assert judged.returncode == 0, judged.stdout + judged.stderr
