"""Compiled passes and the plans that choose them, with the real compiler."""

import copy
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench import registry
from bench.artifacts import ArtifactCache
from bench.execute import execute
from bench.numerics import (
    CompileSite,
    compiling_at,
    make_pass,
    plan_forward,
    plan_train,
    rounds,
)
from bench.numerics.compiling import describe_compile_error, find_compiler
from bench.record import NumericsPlan, Record, Status
from bench.spec import BackboneSpec, Cell, DatasetSpec, Job, Limits, Numerics
from bench.strategies.freeze import Trained
from bench.strategies.full import FullSpec
from bench.strategies.head import Classifier, make_head
from bench.strategies.loop import TrainStep, seeded
from tests.training import SIZE, SmallNet, TestRuntime

CPU = torch.device("cpu")
COMPILED = NumericsPlan(compiled=True)
HEADERS = Path(sysconfig.get_path("include"), "Python.h")

needs_compiler = pytest.mark.skipif(
    find_compiler() is None or not HEADERS.exists(),
    reason="torch.compile needs a C++ compiler (g++, or CXX) and Python's headers (python3-dev)",
)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one test has compiled, the next need not."""
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timings count here however busy the machine is that runs the tests."""
    monkeypatch.setattr(rounds, "MAX_WAITING", float("inf"))


@pytest.fixture
def site(kernels: Path) -> Iterator[CompileSite]:
    phases: list[str] = []

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        phases.append(name)
        yield

    made = CompileSite(phase, kernels)
    made.phases = phases  # type: ignore[attr-defined]
    with compiling_at(made):
        yield made


def num_compiled(site: CompileSite) -> int:
    phases: list[str] = site.phases  # type: ignore[attr-defined]
    assert set(phases) <= {"compile"}
    return len(phases)


class Tells(nn.Module):
    """Adds what it is told to when it is compiled, and takes its time when it is not."""

    def __init__(self, shift: float, slow: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)
        self.shift, self.slow = shift, slow

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return self.linear(x) + self.shift
        if self.slow:
            torch.arange(10_000_000).sum()
        return self.linear(x)


def make_vectors(count: int) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(0))


def test_an_eager_plan_takes_the_module_itself() -> None:
    net = SmallNet()
    assert make_pass(net, NumericsPlan(), 8) is net


@needs_compiler
def test_batches_of_the_size_are_compiled_once_and_any_other_runs_eagerly(
    site: CompileSite,
) -> None:
    net, inputs = Tells(shift=100.0), make_vectors(8)
    forward = make_pass(net, COMPILED, 8)
    with torch.no_grad():
        for _ in range(2):
            assert torch.allclose(forward(inputs), net(inputs) + 100.0, atol=1e-4)
            assert torch.equal(forward(inputs[:5]), net(inputs[:5]))
        again = make_pass(net, COMPILED, 8)(inputs)
    assert torch.allclose(again, net(inputs) + 100.0, atol=1e-4)
    assert num_compiled(site) == 1
    assert site.failures == []


@needs_compiler
def test_without_a_size_the_first_batch_gives_it(site: CompileSite) -> None:
    net, inputs = Tells(shift=100.0), make_vectors(8)
    forward = make_pass(net, COMPILED)
    with torch.no_grad():
        assert torch.allclose(forward(inputs), net(inputs) + 100.0, atol=1e-4)
        assert torch.equal(forward(inputs[:3]), net(inputs[:3]))


@needs_compiler
def test_a_copy_of_a_module_has_no_graphs_of_the_original(site: CompileSite) -> None:
    net, inputs = Tells(shift=100.0), make_vectors(8)
    with torch.no_grad():
        make_pass(net, COMPILED, 8)(inputs)
        other = copy.deepcopy(net)
        other.linear.bias.add_(1.0)
        got = make_pass(other, COMPILED, 8)(inputs)
    assert torch.allclose(got, other(inputs) + 100.0, atol=1e-4)


@needs_compiler
def test_a_compiled_candidate_that_is_faster_is_chosen_with_what_it_took(
    site: CompileSite, tmp_path: Path
) -> None:
    runtime = TestRuntime(numerics=Numerics.AUTO, compile=True, cache=ArtifactCache(tmp_path))
    plan = plan_forward(Tells(0.0, slow=True), make_vectors(8), runtime, key={})
    assert plan.compiled
    assert plan.compile_seconds is not None and plan.compile_seconds > 0.1
    name = f"{plan.precision} {plan.memory_format} compiled"
    assert plan.seconds[name] < 0.5 * min(
        seconds for each, seconds in plan.seconds.items() if "compiled" not in each
    )
    again = plan_forward(Tells(0.0, slow=True), make_vectors(8), runtime, key={})
    assert again == plan.model_copy(update={"source": "recalled"})


@needs_compiler
def test_a_compiled_candidate_that_disagrees_is_rejected_with_numbers(
    site: CompileSite, tmp_path: Path
) -> None:
    runtime = TestRuntime(compile=True, cache=ArtifactCache(tmp_path))
    plan = plan_forward(Tells(1.0, slow=True), make_vectors(8), runtime, key={})
    assert not plan.compiled and plan.compile_seconds is None
    assert "relative error" in plan.rejected["fp32 contiguous compiled"]


def test_a_plan_without_compiling_is_not_one_with_it(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path)
    net = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 4))
    net[0].requires_grad_(False)
    inputs, labels = make_vectors(8), torch.arange(8) % 4
    plans = [
        plan_train(
            net,
            inputs,
            labels,
            TestRuntime(numerics=Numerics.AUTO, compile=compile, cache=cache),
            key={},
        )
        for compile in (False, True)
    ]
    assert [plan.source for plan in plans] == ["measured", "measured"]


def test_a_training_with_a_frozen_part_is_not_compiled_and_says_why(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 4))
    net[0].requires_grad_(False)
    runtime = TestRuntime(compile=True, cache=ArtifactCache(tmp_path))
    plan = plan_train(net, make_vectors(8), torch.arange(8) % 4, runtime, key={})
    assert (plan.precision, plan.compiled) == ("fp32", False)
    assert plan.rejected["compiled"].startswith("not offered: a part is frozen")


@needs_compiler
def test_a_compiled_step_trains_as_the_eager_one(site: CompileSite) -> None:
    losses = []
    labels = torch.arange(8) % 3
    inputs = torch.randn(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    for plan in (NumericsPlan(), COMPILED):
        torch.manual_seed(0)
        trained = Trained(Classifier(SmallNet(), make_head(16, 3)))
        trained.require_gradients()
        trained.train()
        step = TrainStep(trained, FullSpec(optimizer="sgd"), plan, CPU)
        step.set_rate(0.1)
        with seeded(0, CPU):
            batches = [(inputs, labels)] * 4 + [(inputs[:5], labels[:5])]
            losses.append([float(step(*batch)) for batch in batches])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[1][0] > losses[1][3]
    assert num_compiled(site) == 1


@needs_compiler
def test_a_cell_that_may_compile_says_what_was_chosen(tmp_path: Path) -> None:
    cell = Cell(
        suite="tests",
        backbone=BackboneSpec(name="timm/test_resnet", weights="random"),
        dataset=DatasetSpec(name="digits", train_examples=100),
        strategy=registry.strategy("linear_probe").Spec(l2=1.0),
        image_size=32,
        numerics=Numerics.FP32,
        compile=True,
    )
    job = Job(
        cell=cell,
        run_id=1,
        run_scope="scope",
        request_key="request",
        cache_dir=str(tmp_path),
        limits=Limits(profile_time="0.2s"),
    )
    record = execute(job, lambda progress: None)
    assert isinstance(record, Record)
    assert record.status is Status.OK, record.failure
    assert record.key_parts["compile"] == "true"
    assert record.seconds["compile"] > 0
    assert record.effective is not None and record.effective.forward is not None
    plan = record.effective.forward
    assert (plan.compile_seconds is not None) is plan.compiled
    assert "fp32 channels_last" in plan.seconds
    assert {"fp32 channels_last compiled"} <= {*plan.seconds, *plan.rejected}
    assert record.effective.notes == () or "constant" in record.effective.notes[0]
    assert list((tmp_path / "inductor").iterdir())


PROGRAM = """
import json, sys
import torch
from torch import nn
from bench.artifacts import ArtifactCache
from bench.numerics import CompileSite, compiling_at, make_pass, plan_forward
from bench.record import NumericsPlan
from pathlib import Path
from tests.training import TestRuntime

net, inputs = nn.Sequential(nn.Linear(6, 4), nn.ReLU()), torch.randn(8, 6)
runtime = TestRuntime(compile=True, cache=ArtifactCache(Path(sys.argv[1]) / "cache"))
with compiling_at(CompileSite(folder=Path(sys.argv[1]))) as site, torch.no_grad():
    plan = plan_forward(net, inputs, runtime, key={})
    forward = make_pass(net, NumericsPlan(compiled=True), 8)
    equal = all(torch.equal(forward(inputs), net(inputs)) for _ in range(2))
print(json.dumps([plan.rejected, plan.compiled, site.failures, equal]))
"""


def test_a_missing_compiler_rejects_a_candidate_and_leaves_a_pass_eager(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        env={**os.environ, "CXX": str(tmp_path / "no-compiler"), "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rejected, is_compiled, failures, equal = json.loads(done.stdout.splitlines()[-1])
    assert not is_compiled
    reason = rejected["fp32 contiguous compiled"]
    assert reason.startswith("InvalidCxxCompiler: ") and "no-compiler" in reason
    assert failures == [f"a pass planned as compiled ran eagerly: {reason}"]
    assert equal


def test_the_line_that_names_a_compilers_error_is_the_reason() -> None:
    error = RuntimeError("C++ compile error\n\nOutput:\na.h:3: fatal error: Python.h: none\nmore")
    assert describe_compile_error(error) == "RuntimeError: a.h:3: fatal error: Python.h: none"
    wrapped = RuntimeError("backend='inductor' raised:\n…")
    wrapped.inner_exception = ValueError("too deep\nat line 3")  # type: ignore[attr-defined]
    assert describe_compile_error(wrapped) == "ValueError: too deep"
