"""Fewer examples at once when memory runs out: in training, in evaluation, for features."""

import json
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.datasets.prepare import PreparedData
from bench.interfaces import Adapted, Backbone, Stage, Task
from bench.measure import CellProfiler
from bench.meters import is_out_of_memory
from bench.numerics import plan_train, rounds
from bench.profile import ProfileSettings
from bench.record import DataInfo, NumericsPlan
from bench.registry import strategy
from bench.spec import Numerics
from bench.strategies.evaluation import predict_logits
from bench.strategies.features import extract_features
from bench.strategies.feed import InputFeed
from bench.strategies.freeze import Trained
from bench.strategies.full import Full, FullSpec
from bench.strategies.head import Classifier, make_head
from bench.strategies.loop import TrainStep
from bench.strategies.microbatch import EvalBatch, with_fewer
from bench.strategies.partial import Partial, PartialSpec
from tests.training import (
    SIZE,
    TestRuntime,
    make_backbone,
    make_split,
    make_task,
    small_backbone,
)

CPU = torch.device("cpu")
FP32 = NumericsPlan()
ROOT = Path(__file__).parents[2]
PLENTY = 10**9


class Limited(nn.Module):
    """A network without batch norm, for which memory runs out above a number of examples.

    `patience` training passes get through whatever their size. `passes` has mode and size of each.
    """

    def __init__(self, train: int, evaluate: int, patience: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.last = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        self.limits = {True: train, False: evaluate}
        self.patience = patience
        self.passes: list[tuple[bool, int]] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.passes.append((self.training, len(inputs)))
        maps = self.stem(inputs)
        patient = self.training and self._num_training_passes() <= self.patience
        if len(inputs) > self.limits[self.training] and not patient:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.last(maps).mean(dim=(2, 3))

    def _num_training_passes(self) -> int:
        return sum(training for training, _ in self.passes)

    def sizes(self, *, training: bool) -> list[int]:
        return [size for mode, size in self.passes if mode == training]


def limited_backbone(
    *, train: int = PLENTY, evaluate: int = PLENTY, patience: int = 0
) -> tuple[Backbone, Limited]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Limited(train, evaluate, patience)
    stages = tuple(Stage(name, (name,)) for name in ("stem", "last"))
    return make_backbone(module, stages, 16), module


def adapt(spec: FullSpec, **limits: int) -> tuple[Adapted, Limited]:
    backbone, module = limited_backbone(**limits)
    return Full().adapt(make_task(backbone, num_train=80), spec), module


SPEC = FullSpec(epochs=3, batch_size=32, learning_rate=0.02, label_smoothing=0.1)


# One step


def step_gradients(micro_batch: int | None, labels: Tensor, **fields: object) -> list[Tensor]:
    """Return the loss of one step and the gradients it left behind."""
    _, module = limited_backbone()
    trained = Trained(Classifier(module, make_head(16, 3)))
    with torch.no_grad():
        trained.classifier.head.weight.copy_(torch.linspace(-1, 1, 48).view(3, 16))
    trained.require_gradients()
    setting = FullSpec(label_smoothing=0.1, **fields)  # type: ignore[arg-type]
    step = TrainStep(trained, setting, FP32, CPU, micro_batch)
    inputs = torch.rand((33, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0))
    loss = step(inputs, labels)
    assert micro_batch is None or max(module.sizes(training=True)) <= micro_batch + 1
    return [loss, *(value.grad for value in trained.parameters() if value.grad is not None)]


@pytest.mark.parametrize("clip_norm", [None, 0.01])
@pytest.mark.parametrize("micro_batch", [32, 16, 7, 1])
@pytest.mark.parametrize("kind", ["classes", "probabilities"])
def test_an_accumulated_step_is_that_of_the_whole_batch(
    micro_batch: int, clip_norm: float | None, kind: str
) -> None:
    labels = torch.arange(33) % 3
    if kind == "probabilities":
        labels = torch.softmax(torch.arange(99.0).view(33, 3) % 5, dim=1)
    whole = step_gradients(None, labels, clip_norm=clip_norm)
    parts = step_gradients(micro_batch, labels, clip_norm=clip_norm)
    assert len(whole) == len(parts) == 7
    assert max(float(value.abs().max()) for value in whole[1:]) > 1e-4
    for one, other in zip(whole, parts, strict=True):
        assert torch.allclose(one, other, atol=1e-6, rtol=0)


def test_parts_are_folded_so_that_none_is_a_single_example() -> None:
    _, module = limited_backbone()
    trained = Trained(Classifier(module, make_head(16, 3)))
    trained.require_gradients()
    step = TrainStep(trained, FullSpec(), FP32, CPU, 16)
    step(torch.rand(33, 3, SIZE, SIZE), torch.arange(33) % 3)
    assert module.sizes(training=True) == [16, 17]


# A training


def test_a_training_that_runs_out_gives_the_curve_of_one_that_never_did() -> None:
    enough, _ = adapt(SPEC)
    scarce, module = adapt(SPEC, train=8)
    assert module.sizes(training=True)[:4] == [32, 16, 8, 8]
    for one, other in zip(enough.curve, scarce.curve, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, abs=1e-5)
        assert one.val_loss == pytest.approx(other.val_loss, abs=1e-5)
        assert one.learning_rate == other.learning_rate
    assert enough.curve[-1].train_loss < enough.curve[0].train_loss
    test = make_split("test", 20, 9)
    assert torch.allclose(enough.predict(test), scarce.predict(test), atol=1e-4)


def test_the_record_says_what_was_asked_for_and_what_was_done() -> None:
    enough, _ = adapt(SPEC)
    assert enough.effective.batch_size == enough.effective.effective_batch_size == 32
    assert enough.effective.notes == ()
    scarce, _ = adapt(SPEC, train=8)
    effective = scarce.effective
    assert effective.requested_batch_size == effective.effective_batch_size == 32
    assert effective.batch_size == 8
    assert effective.notes == (
        "memory ran out: each step of 32 examples accumulates the gradients of passes over 8",
    )
    assert scarce.selection is not None
    assert scarce.selection.points[0].note == "8 examples per pass, for memory"


@pytest.mark.parametrize("patience", [1, 4, 7])
def test_the_result_does_not_depend_on_where_memory_ran_out(patience: int) -> None:
    at_once, _ = adapt(SPEC, train=16)
    later, module = adapt(SPEC, train=16, patience=patience)
    assert module.sizes(training=True)[patience : patience + 2] == [32, 16]
    assert [point.train_loss for point in at_once.curve] == [p.train_loss for p in later.curve]
    test = make_split("test", 20, 9)
    assert torch.equal(at_once.predict(test), later.predict(test))


class LimitedSteps(Limited):
    """As `Limited`, for strategies that leave the whole in eval mode: gradients tell a step."""

    def forward(self, inputs: Tensor) -> Tensor:
        self.training = torch.is_grad_enabled()
        return super().forward(inputs)


@pytest.mark.parametrize("patience", [0, 4, 7])
@pytest.mark.parametrize("name", ["bias_only", "gradual_unfreeze", "l2_sp", "layer_decay", "lora"])
def test_other_ways_to_train_go_on_in_parts_too(name: str, patience: int) -> None:
    found = strategy(name)
    fields = {"epochs": 4, "batch_size": 32, "learning_rate": 0.02, "schedule": "constant"}
    spec = found.Spec.model_validate({"name": name, **fields})

    def run(**limits: int) -> tuple[Adapted, Limited]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = LimitedSteps(limits.get("train", PLENTY), PLENTY, limits.get("patience", 0))
        stages = tuple(Stage(part, (part,)) for part in ("stem", "last"))
        backbone = make_backbone(module, stages, 16)
        return found.adapt(make_task(backbone, num_train=80), spec), module

    (enough, _), (scarce, module) = run(), run(train=16, patience=patience)
    assert module.sizes(training=True)[patience : patience + 2] == [32, 16]
    losses = [point.train_loss for point in enough.curve]
    assert [point.train_loss for point in scarce.curve] == pytest.approx(losses, rel=1e-3)
    assert scarce.effective.batch_size == 16 and scarce.effective.effective_batch_size == 32
    assert scarce.num_trainable_parameters == enough.num_trainable_parameters


def test_later_settings_begin_with_what_worked() -> None:
    spec = SPEC.model_copy(update={"learning_rate": (0.01, 0.02), "batch_size": (32, 4)})
    adapted, module = adapt(spec, train=8)
    sizes = module.sizes(training=True)
    assert [size for size in sizes if size > 8] == [32, 16]
    assert adapted.selection is not None
    notes = [point.note for point in adapted.selection.points]
    settings = [point.setting["batch_size"] for point in adapted.selection.points]
    assert dict(zip(settings, notes, strict=True)) == {
        32: "8 examples per pass, for memory",
        4: None,
    }


def test_the_profiled_step_takes_the_parts_of_the_training() -> None:
    adapted, module = adapt(SPEC, train=8)
    assert adapted.training_step is not None
    step = adapted.training_step()
    module.passes.clear()
    step(torch.rand(32, 3, SIZE, SIZE), torch.arange(32) % 3)
    assert module.passes == [(True, 8)] * 4


def test_the_profile_measures_the_whole_batch_in_these_parts() -> None:
    backbone, module = limited_backbone(train=8)
    task = make_task(backbone, num_train=80)
    adapted = Full().adapt(task, SPEC)
    info = DataInfo(
        fingerprint="0" * 64,
        class_names=("a", "b", "c"),
        splits={},
        num_duplicates=0,
        majority_accuracy=0.4,
        image_size=SIZE,
    )
    data = PreparedData(task.train, task.val, task.train, info, lambda: np.zeros(0), backbone)
    settings = ProfileSettings(CPU, budget_seconds=0.05)
    module.passes.clear()
    profile = CellProfiler(backbone, data, task.runtime, settings).training(adapted, SPEC)
    assert profile is not None and profile.batch_size == 32
    assert set(module.passes) == {(True, 8)}
    assert len(module.passes) >= 4 * len(profile.step_seconds)


def test_batch_norm_is_never_given_one_example_and_the_note_names_its_statistics() -> None:
    def exhausted_above(limit: int) -> tuple[Task, list[int]]:
        backbone, sizes = small_backbone(), []

        def watch(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if module.training:
                sizes.append(len(inputs[0]))
                if len(inputs[0]) > limit:
                    raise torch.OutOfMemoryError("CUDA out of memory")

        backbone.module.register_forward_pre_hook(watch)
        return make_task(backbone), sizes

    task, sizes = exhausted_above(2)
    adapted = Full().adapt(task, FullSpec(epochs=1, batch_size=16))
    assert sizes[:4] == [16, 8, 4, 2] and set(sizes[3:]) == {2}
    assert adapted.effective.notes == (
        "memory ran out: each step of 16 examples accumulates the gradients of passes over 2, and "
        "batch norm takes its statistics from 2 in place of 16",
    )
    task, sizes = exhausted_above(1)
    with pytest.raises(torch.OutOfMemoryError):
        Full().adapt(task, FullSpec(epochs=1, batch_size=16))
    assert sizes == [16, 8, 4, 2]


def test_without_batch_norm_single_examples_are_the_last_resort() -> None:
    adapted, _ = adapt(SPEC, train=1)
    assert adapted.effective.batch_size == 1
    backbone, module = limited_backbone(train=0)
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        Full().adapt(make_task(backbone), SPEC)
    assert module.sizes(training=True) == [32, 16, 8, 4, 2, 1]


def test_numerics_are_planned_on_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    # On a busy machine nothing would be compared, and so nothing of this size run.
    monkeypatch.setattr(rounds, "MAX_WAITING", float("inf"))
    runtime = TestRuntime(numerics=Numerics.AUTO)
    backbone, module = limited_backbone(train=8, evaluate=8)
    adapted = Full().adapt(
        make_task(backbone, num_train=80, runtime=runtime), FullSpec(epochs=1, batch_size=16)
    )
    assert adapted.effective.batch_size == 8
    classifier = Classifier(module.train(), make_head(16, 3))
    with pytest.raises(torch.OutOfMemoryError):
        plan_train(
            classifier,
            torch.rand(16, 3, SIZE, SIZE),
            torch.arange(16) % 3,
            runtime,
            key={"test": 1},
        )


def test_features_are_planned_on_what_fits() -> None:
    backbone, module = limited_backbone(evaluate=8)
    runtime = TestRuntime(numerics=Numerics.AUTO)
    features = extract_features(backbone, make_split("train", 50, 1), runtime)
    assert features.shape == (50, 16)
    assert max(size for size in module.sizes(training=False)[-6:]) <= 9


# Evaluation


def test_every_epoch_scores_val_with_what_fitted_before() -> None:
    adapted, module = adapt(SPEC, evaluate=10)
    assert [size for size in module.sizes(training=False) if size > 10] == [24, 12]
    assert len(adapted.curve) == 3


@pytest.mark.parametrize("limit", [64, 16, 1])
def test_evaluation_takes_fewer_at_once_and_gives_the_same_logits(limit: int) -> None:
    _, module = limited_backbone(evaluate=limit)
    classifier = Classifier(module, make_head(16, 3))
    with torch.no_grad():
        classifier.head.weight.copy_(torch.linspace(-1, 1, 48).view(3, 16))
    feed = InputFeed(make_split("test", 100, 9), small_backbone().preprocessing, CPU, resident=True)
    at_once = EvalBatch(64, CPU)
    logits = predict_logits(classifier, feed, FP32, CPU, at_once)
    module.limits[False] = PLENTY
    assert torch.allclose(logits, predict_logits(classifier, feed, FP32, CPU), atol=1e-6)
    assert at_once.size == limit


def test_batches_that_came_through_are_not_run_again_and_what_fits_is_remembered() -> None:
    ran: list[tuple[int, int]] = []
    limit = PLENTY

    def run(first: int, sizes: tuple[int, ...]):  # type: ignore[no-untyped-def]
        nonlocal limit
        for size in sizes:
            if size > limit:
                raise MemoryError
            ran.append((first, size))
            yield torch.arange(first, first + size)
            first += size
            limit = 10

    at_once = EvalBatch(16, CPU)
    assert torch.equal(torch.cat(at_once.collect(40, run)), torch.arange(40))  # type: ignore[arg-type]
    assert ran == [(0, 16), (16, 8), (24, 8), (32, 8)]
    ran.clear()
    at_once.collect(16, run)  # type: ignore[arg-type]
    assert ran == [(0, 8), (8, 8)]


def test_features_are_computed_on_fewer_at_once() -> None:
    backbone, module = limited_backbone(evaluate=10)
    split = make_split("train", 100, 1)
    features = extract_features(backbone, split, TestRuntime())
    assert max(module.sizes(training=False)[-12:]) == 8
    module.limits[False] = PLENTY
    assert torch.allclose(features, extract_features(backbone, split, TestRuntime()), atol=1e-6)


def test_a_prefix_is_run_on_fewer_at_once() -> None:
    spec = PartialSpec(epochs=1, batch_size=8)

    def losses(limit: int) -> tuple[list[float], Limited]:
        backbone, module = limited_backbone(evaluate=limit)
        adapted = Partial().adapt(make_task(backbone, num_train=80), spec)
        assert adapted.effective.notes == ()
        return [adapted.curve[0].train_loss, adapted.curve[0].val_loss or 0.0], module

    enough, _ = losses(PLENTY)
    scarce, module = losses(20)
    assert {64, 16} <= set(module.sizes(training=False))
    assert scarce == pytest.approx(enough, abs=1e-6)


# The error itself


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (np._core._exceptions._ArrayMemoryError((1,), np.dtype("u1")), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("shapes differ"), False),
        (OSError("out of memory is not what this is about"), False),
    ],
)
def test_an_error_is_known_to_mean_that_memory_ran_out(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of the address space")
def test_an_error_of_two_meanings_counts_only_where_memory_can_be_refused() -> None:
    import resource

    error = RuntimeError("could not create a primitive")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    overcommit = Path("/proc/sys/vm/overcommit_memory").read_text().strip()
    if soft == resource.RLIM_INFINITY and overcommit != "2":
        assert not is_out_of_memory(error)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 46, hard))
        assert is_out_of_memory(error)
        assert not is_out_of_memory(RuntimeError("shapes differ"))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_another_error_is_raised_at_once() -> None:
    tried: list[int] = []

    def attempt(size: int) -> None:
        tried.append(size)
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        with_fewer(attempt, 32, CPU)
    assert tried == [32]


def test_what_a_failed_attempt_held_is_free_before_the_next() -> None:
    held: list[weakref.ref[Tensor]] = []

    def attempt(size: int) -> int:
        assert all(each() is None for each in held)
        tensor = torch.zeros(size)
        held.append(weakref.ref(tensor))
        if size > 2:
            raise MemoryError
        return size

    assert with_fewer(attempt, 16, CPU) == 2
    assert len(held) == 4


REAL = """
import json, resource
from pathlib import Path
import torch
from torch import nn
from bench.interfaces import Stage
from bench.strategies.full import Full, FullSpec
from tests.training import make_backbone, make_split, make_task

torch.set_num_threads(1)

class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(3, 64, 3, 1, 1)
    def forward(self, inputs):
        maps = nn.functional.interpolate(inputs, size=(96, 96))
        return self.wide(maps).relu().mean(dim=(2, 3))

def adapt(limit):
    # The library's own buffers come with the first use.
    Full().adapt(task(8), FullSpec(epochs=1, batch_size=2))
    if limit:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        bytes_now = pages * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (bytes_now + limit, bytes_now + limit))
    adapted = Full().adapt(task(64), FullSpec(epochs=2, batch_size=64, learning_rate=0.02))
    adapted.predict(make_split("test", 40, 9))
    return adapted

def task(num_train):
    torch.manual_seed(0)
    return make_task(
        make_backbone(Wide(), (Stage("wide", ("wide",)),), 64), num_train=num_train, num_val=16
    )

adapted = adapt(%d)
print(json.dumps({
    "losses": [point.train_loss for point in adapted.curve],
    "effective": adapted.effective.model_dump(mode="json"),
}))
"""


def train_for_real(limit: int) -> dict[str, object]:
    """Run a training in a process of its own, with so many bytes beyond what it has at start."""
    ended = subprocess.run(
        [sys.executable, "-c", REAL % limit],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    result: dict[str, object] = json.loads(ended.stdout)
    return result


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of the address space")
def test_a_real_training_that_cannot_have_the_memory_accumulates_and_ends_well() -> None:
    enough = train_for_real(0)
    # A batch of 64 has maps of 150 MB, several of them at a time.
    scarce = train_for_real(250_000_000)
    effective = scarce["effective"]
    assert isinstance(effective, dict)
    assert effective["effective_batch_size"] == 64
    assert 1 <= effective["batch_size"] <= 32
    assert "memory ran out" in effective["notes"][0]
    assert scarce["losses"] == pytest.approx(enough["losses"], abs=1e-5)
