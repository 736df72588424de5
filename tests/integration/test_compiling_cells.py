"""Compilers in the processes of cells: they work there, and end with the cell."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench.executors.local import LocalExecutor
from bench.record import Record, Status
from bench.spec import BackboneSpec, Cell, DatasetSpec, Job, Limits, StrategySpec
from bench.store import open_store
from tests.faults import PYTHON, is_running, read_pids

SUITE = """
name: compiles
backbones: [{name: timm/test_resnet, weights: random}]
datasets: [{name: digits, train_examples: 80}]
strategies: [{name: linear_probe, l2: 1.0}]
image_size: 32
numerics: fp32
compile: true
limits: {profile_time: 0.2s}
"""

# Says that it works, and then never comes back.
COMPILER = """#!/bin/sh
case "$*" in
  *-version*|-v) echo "g++ (Debian) 12.2.0"; exit 0 ;;
esac
echo $$ >> {pids}
exec sleep 300
"""


def compile_something(job: Job, emit: Any) -> None:
    """Run in the child: a pass whose compiler hangs."""
    import torch

    from bench.numerics import CompileSite, compiling_at
    from bench.numerics.compiling import CompiledPass
    from bench.record import NumericsPlan

    net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU())
    forward = CompiledPass(net, NumericsPlan(compiled=True), 8)
    with torch.no_grad(), compiling_at(CompileSite(folder=Path(job.cache_dir))):
        forward(torch.randn(8, 6))


@pytest.mark.slow
def test_a_cell_that_is_ended_while_it_compiles_takes_its_compiler_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids, compiler = tmp_path / "pids", tmp_path / "hanging-compiler"
    compiler.write_text(COMPILER.format(pids=pids))
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    cell = Cell(
        suite="tests",
        backbone=BackboneSpec(name="plain/pixels"),
        dataset=DatasetSpec(name="digits"),
        strategy=StrategySpec(name="linear_probe"),
        compile=True,
    )
    job = Job(
        cell=cell,
        run_id=1,
        run_scope="scope",
        request_key="request",
        cache_dir=str(tmp_path / "cache"),
        limits=Limits(cell_timeout=30),
    )
    target = f"{__name__}:{compile_something.__name__}"
    with LocalExecutor(target=target, preload_modules=()) as executor:
        ((_, record),) = executor.run([job], lambda job, progress: None)
    assert isinstance(record, Record) and record.status is Status.TIMEOUT, record
    started = read_pids(pids)
    assert started, "no compiler was started"
    assert not any(is_running(pid) for pid in started)


@pytest.mark.slow
def test_a_suite_that_compiles_says_in_its_records_what_became_of_it(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(SUITE)
    done = subprocess.run(
        [PYTHON, "-m", "bench", "run", "suite.yaml", "--store", "bench.db"],
        cwd=tmp_path,
        env={**os.environ, "BENCH_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with open_store(str(tmp_path / "bench.db")) as store:
        (record,) = store.records()
        whole = store.get(str(record.key))
    assert whole.cell.compile and whole.key_parts["compile"] == "true"
    assert whole.effective is not None and whole.effective.forward is not None
    plan = whole.effective.forward
    # On a busy machine, or one without a compiler, it is rejected with the reason.
    assert "fp32 channels_last compiled" in {**plan.seconds, **plan.rejected}
    assert plan.compiled is (plan.compile_seconds is not None)
    assert ("compile" in whole.seconds) or plan.rejected
