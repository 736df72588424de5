"""`bench doctor` as a user runs it."""

import json
import os
import subprocess
import sys

from bench.record import NumericsPlan


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
    assert "postgresql+psycopg://me:***@host/db" in done.stdout
    assert "transfer-bench" in done.stdout
    assert "bf16 contiguous, 1 threads, weights 0123456789ab, cpu:x:2, torch 2" in done.stdout
    assert "fp32 contiguous compiled in 21.5 s, 1 threads" in done.stdout
    assert done.returncode == (3 if "broken:" in done.stdout else 0), done.stderr


def test_doctor_exits_3_when_the_cache_cannot_be_written(tmp_path):
    (tmp_path / "cache").write_text("a file")
    done = run_doctor(tmp_path)
    assert done.returncode == 3
    assert "broken: the cache" in done.stdout
    assert "Traceback" not in done.stderr


def test_doctor_exits_3_when_the_store_is_no_url(tmp_path):
    done = run_doctor(tmp_path, BENCH_STORE="://")
    assert done.returncode == 3
    assert "broken: '://' is not a database URL" in done.stdout
