import subprocess
from pathlib import Path

import pytest

from bench.store import Delivery, Spool, check_store, open_store
from tests.records import make_record


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_and_is_freed_costs_no_record(small_disk: Path, tmp_path: Path):
    said: list[str] = []
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * 16_200_000)
    with open_store(str(small_disk / "bench.db")) as store:
        run = store.start_run("vision")
        spool = Spool(store.identity, tmp_path / "spool")
        delivery = Delivery(store, spool=spool, patience=0.1, say=said.append)
        records = [make_record(seed=seed, run_id=run.id, predictions=True) for seed in range(60)]
        kept = [delivery.keep(record, run) for record in records]
        assert kept[0] and not kept[-1]
        assert "disk is full. Free some space" in said[0]
        assert len(spool.paths()) == kept.count(False)
        ballast.unlink()
        assert delivery.deliver().num_left == 0
        check = check_store(store)
        assert (check.num_records, check.problems) == (60, ())
