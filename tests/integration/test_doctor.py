"""`bench doctor` as a user runs it."""

import json
import os
import subprocess
import sys

from bench.record import NumericsPlan
from bench.store import Parcel, RunInfo, Spool
from bench.store.schema import LAYOUT_VERSION
from tests.old_layouts import GOLDEN, write_old_layout
from tests.records import START, make_record


def run_doctor(tmp_path, **variables):
    return subprocess.run(
        [sys.executable, "-c", "from bench.cli import main; main()", "doctor"],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        cwd=tmp_path,
        env={**os.environ, "BENCH_CACHE": str(tmp_path / "cache"), **variables},
    )


def test_doctor_says_what_is_here(tmp_path):
    folder = tmp_path / "cache" / "shared" / "numerics" / "a"
    folder.mkdir(parents=True)
    key = {"pass": "train", "shape": [64, 3, 32, 32], "device_class": "cpu:x:2", "torch": "2"}
    content = {
        "key": {**key, "module": {"weights": "0123456789abcdef"}},
        "value": NumericsPlan(precision="bf16").model_dump(mode="json"),
        "seconds": 1.0,
    }
    (folder / "value.json").write_text(json.dumps(content))
    compiled = NumericsPlan(compiled=True, compile_seconds=21.5).model_dump(mode="json")
    (folder.parent / "b").mkdir()
    (folder.parent / "b" / "value.json").write_text(json.dumps({**content, "value": compiled}))
    done = run_doctor(tmp_path, BENCH_STORE="postgresql+psycopg://me:secret@host/db")
    assert "secret" not in done.stdout
    assert "database  postgresql+psycopg://me:***@host/db\n  state     see below" in done.stdout
    assert "broken: store: cannot open postgresql+psycopg://me:***@host/db: " in done.stdout
    assert "transfer-bench" in done.stdout
    assert "bf16 contiguous, 1 threads, weights 0123456789ab, cpu:x:2, torch 2" in done.stdout
    assert "fp32 contiguous compiled in 21.5 s, 1 threads" in done.stdout
    assert done.returncode == 3, done.stderr


def test_doctor_exits_3_and_names_a_cache_that_cannot_be_written_and_a_store_that_is_no_url(
    tmp_path,
):
    (tmp_path / "cache").write_text("a file")
    done = run_doctor(tmp_path, BENCH_STORE="://")
    assert done.returncode == 3
    assert "broken: the cache" in done.stdout
    assert "broken: '://' is not a database URL" in done.stdout
    assert "Traceback" not in done.stderr


def test_doctor_says_what_the_store_holds_and_what_waits_for_it(tmp_path):
    path = tmp_path / "results" / "bench.db"
    write_old_layout(str(path), 1, [(GOLDEN / "record_v1.json").read_text()])
    run = RunInfo(1, "0" * 32, "vision", START)
    for number, name in enumerate((str(path), str(path), "/elsewhere/bench.db")):
        spool = Spool(name, tmp_path / "cache" / "spool")
        spool.put(Parcel(f"{number:032}", run, make_record()))
    done = run_doctor(tmp_path, BENCH_STORE=str(path))
    assert f"database  {path}\n  state     can be read and written\n  server    SQLite 3." in (
        done.stdout
    )
    assert f"layout    1, will be led to {LAYOUT_VERSION} when it is next opened" in done.stdout
    assert "content   1 runs, 1 records" in done.stdout
    assert f"spool     2 records wait in {tmp_path / 'cache' / 'spool'}" in done.stdout
    ours = f"warning: 2 records wait here for {path}\n  Deliver with: bench store sync\n"
    assert ours in done.stdout
    other = "warning: 1 record waits here for /elsewhere/bench.db\n  Deliver with: bench store sync"
    assert f"{other} --store /elsewhere/bench.db\n" in done.stdout
    assert done.returncode == (3 if "broken:" in done.stdout else 0), done.stderr
