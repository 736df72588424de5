"""A disk under the store that fills up, or is read-only."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from bench.errors import StoreError
from bench.store import Delivery, Spool, check_store, look_at_store, open_store
from tests.postgres import start_server
from tests.records import make_record

_NUM_BYTES = 16 << 20
_BALLAST = 16_200_000
_NUM_RECORDS = 60


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 16 MiB, where a server's own user can look too."""
    folder = Path(tempfile.mkdtemp(prefix="bench-disk-"))
    command = ["mount", "-t", "tmpfs", "-o", f"size={_NUM_BYTES}", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        folder.rmdir()
        pytest.skip("no right to mount a small file system here: it takes root")
    folder.chmod(0o755)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()


def _fill_and_free(url: str, ballast: Path, spool_folder: Path) -> None:
    """Write until the disk is full, free it, and look whether every record is there, once."""
    said: list[str] = []
    with open_store(url) as store:
        run = store.start_run("vision")
        spool = Spool(store.identity, spool_folder)
        delivery = Delivery(store, spool=spool, patience=0.1, say=said.append)
        records = [
            make_record(seed=seed, run_id=run.id, predictions=True) for seed in range(_NUM_RECORDS)
        ]
        ballast.write_bytes(b"\0" * _BALLAST)
        kept = [delivery.keep(record, run) for record in records]
        assert kept[0] and not kept[-1]
        assert "Free some space" in said[0]
        assert len(spool.paths()) == kept.count(False)
        assert len(store.records()) == kept.count(True)
        ballast.unlink()
        assert delivery.deliver().num_left == 0
        check = check_store(store)
        assert (check.num_records, check.problems) == (_NUM_RECORDS, ())
        seeds = [record.cell.seed for record in store.records()]
        assert sorted(seeds) == list(range(_NUM_RECORDS))


def test_a_disk_of_sqlite_that_fills_up_and_is_freed_costs_no_record(
    small_disk: Path, tmp_path: Path
):
    _fill_and_free(str(small_disk / "bench.db"), small_disk / "ballast", tmp_path / "spool")


def test_a_store_on_a_read_only_disk_says_so_and_is_left_as_it_is(small_disk: Path):
    path = small_disk / "bench.db"
    with open_store(str(path)) as store:
        store.start_run("vision")
    content = path.read_bytes()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreError, match="Check that its folder exists and can be written"):
        open_store(str(path))
    problem = look_at_store(str(path)).problem
    assert problem is not None and "Check that its folder exists and can be written" in problem
    assert path.read_bytes() == content


@pytest.fixture
def small_server(small_disk: Path) -> Iterator[str]:
    """A server whose tables of bench lie on the small disk, and its log does not."""
    server = start_server()
    engine = create_engine(server.url, isolation_level="AUTOCOMMIT")
    place = small_disk / "tables"
    place.mkdir()
    shutil.chown(place, "postgres")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE TABLESPACE small LOCATION '{place}'")
    engine.dispose()
    yield f"{server.url}&options=-cdefault_tablespace%3Dsmall"
    server.close()


def test_a_disk_of_postgresql_that_fills_up_and_is_freed_costs_no_record(
    small_server: str, small_disk: Path, tmp_path: Path
):
    _fill_and_free(small_server, small_disk / "ballast", tmp_path / "spool")
