"""A compiler is a process of its own: it ends with the cell that started it."""

from pathlib import Path
from typing import Any

import pytest

from bench.executors.local import LocalExecutor
from bench.record import Record, Status
from bench.spec import BackboneSpec, Cell, DatasetSpec, Job, Limits, StrategySpec
from tests.faults import is_running, read_pids

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
