"""Numerics plans on tiny real modules: agreement, choice, memory of what was measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench.artifacts import ArtifactCache
from bench.errors import StrategyError
from bench.numerics import (
    apply_plan,
    autocast,
    plan_forward,
    plan_train,
    prepare_inputs,
    rounds,
)
from bench.numerics.applied import Candidate
from bench.numerics.choice import candidates
from bench.numerics.rounds import choose
from bench.numerics.trial import TrainTrial
from bench.record import NumericsPlan
from bench.spec import Numerics

CPU = torch.device("cpu")


@dataclass
class CpuRuntime:
    cache: ArtifactCache
    numerics: Numerics = Numerics.AUTO
    compile: bool = False
    plans: Mapping[str, NumericsPlan] = field(default_factory=dict)
    device: torch.device = CPU
    num_threads: int = 1

    def emit(self, progress):
        raise AssertionError("numerics announce nothing")

    def phase(self, name):
        raise AssertionError("numerics open no phase")


@pytest.fixture
def runtime(tmp_path):
    return CpuRuntime(ArtifactCache(tmp_path))


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch):
    """Timings count here however busy the machine is that runs the tests."""
    monkeypatch.setattr(rounds, "MAX_WAITING", float("inf"))


def make_conv_net(num_classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(8, num_classes),
    )


def make_batch(count: int = 12) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(count, 3, 16, 16), torch.arange(count) % 4


class Cancels(nn.Module):
    """The small difference of two large products: lost in bf16, kept in fp32."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x + 3000.0) - self.linear(torch.full_like(x, 3000.0))


class NeedsFloat32(nn.Module):
    """Its second half leaves autocast and has float32 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 9), nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        with torch.autocast("cpu", enabled=False):
            return self.second(y)


class OverflowsInBfloat16(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y / (y.dtype == torch.float32)


def num_plans(runtime: CpuRuntime) -> int:
    return len(list(runtime.cache.root.glob("shared/numerics/*/value.json")))


def test_a_pinned_precision_is_taken_without_measuring(runtime):
    runtime.numerics = Numerics.BF16
    plan = plan_forward(make_conv_net(), make_batch()[0], runtime, key={})
    assert (plan.precision, plan.memory_format, plan.source) == ("bf16", "channels_last", "pinned")
    assert plan.seconds == {}
    assert num_plans(runtime) == 0


def test_a_pinned_plan_of_a_module_without_images_is_contiguous(runtime):
    runtime.numerics = Numerics.FP32
    plan = plan_forward(nn.Linear(6, 4), torch.randn(8, 6), runtime, key={})
    assert plan.memory_format == "contiguous"


@pytest.mark.parametrize("plan", [plan_forward, plan_train])
def test_fp16_on_a_cpu_is_refused_with_what_there_is(runtime, plan):
    runtime.numerics = Numerics.FP16
    arguments = make_batch() if plan is plan_train else make_batch()[:1]
    with pytest.raises(StrategyError, match=r"fp16 cannot run on cpu.*It has: fp32, bf16\..*auto"):
        plan(make_conv_net(), *arguments, runtime, key={})


def test_a_plan_is_measured_once_and_then_recalled(runtime):
    net, (inputs, _) = make_conv_net(), make_batch()
    first = plan_forward(net, inputs, runtime, key={"weights": "a"})
    again = plan_forward(net, inputs, runtime, key={"weights": "a"})
    assert (first.source, again.source) == ("measured", "recalled")
    assert again == first.model_copy(update={"source": "recalled"})
    assert f"{first.precision} {first.memory_format}" in first.seconds
    assert all(value > 0 for value in first.seconds.values())


def test_the_plan_of_a_baseline_is_taken_without_measuring(tmp_path):
    """It was timed with so many threads: with others it says nothing."""
    net, (inputs, _) = make_conv_net(), make_batch()
    slow = NumericsPlan(precision="fp32", memory_format="contiguous", source="measured")
    runtime = CpuRuntime(ArtifactCache(tmp_path), plans={"forward": slow})
    reused = plan_forward(net, inputs, runtime, key={"weights": "a"})
    assert reused == slow.model_copy(update={"source": "baseline"})
    assert num_plans(runtime) == 0
    threads = replace(runtime, plans={"forward": slow.model_copy(update={"num_threads": 7})})
    assert plan_forward(net, inputs, threads, key={"weights": "a"}).source == "measured"


def test_a_plan_outlives_the_run(tmp_path):
    net, (inputs, _) = make_conv_net(), make_batch()
    sources = [
        plan_forward(
            net, inputs, CpuRuntime(ArtifactCache(tmp_path, run_scope=scope)), key={}
        ).source
        for scope in ("run-1", "run-2")
    ]
    assert sources == ["measured", "recalled"]


def test_what_a_busy_machine_measured_is_not_used_and_kept_by_the_run_alone(tmp_path, monkeypatch):
    net, (inputs, _) = make_conv_net(), make_batch()
    first, second = (
        CpuRuntime(ArtifactCache(tmp_path, run_scope=scope)) for scope in ("run-1", "run-2")
    )
    monkeypatch.setattr(rounds, "MAX_WAITING", -1.0)
    busy = plan_forward(net, inputs, first, key={})
    monkeypatch.setattr(rounds, "MAX_WAITING", float("inf"))
    again = plan_forward(net, inputs, first, key={})
    idle = plan_forward(net, inputs, second, key={})
    assert (busy.precision, busy.memory_format) == ("fp32", "channels_last")
    assert busy.rejected["bf16 contiguous"].startswith("not compared: threads waited")
    assert again == busy.model_copy(update={"source": "recalled"})
    assert (idle.source, idle.rejected) == ("measured", {})


def test_other_weights_shapes_threads_and_passes_have_plans_of_their_own(runtime):
    net, (inputs, labels) = make_conv_net(), make_batch()
    plans = [
        plan_forward(net, inputs, runtime, key={"weights": "a"}),
        plan_forward(net, inputs, runtime, key={"weights": "b"}),
        plan_forward(net, inputs[:8], runtime, key={"weights": "a"}),
        plan_forward(net, inputs, replace(runtime, num_threads=2), key={"weights": "a"}),
        plan_train(net, inputs, labels, runtime, key={"weights": "a"}),
    ]
    assert {plan.source for plan in plans} == {"measured"}
    assert plans[3].num_threads == 2


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_the_module_and_the_random_state_as_they_were(runtime, training):
    net, (inputs, labels) = make_conv_net().train(training), make_batch()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    strides = [weight.stride() for weight in net.parameters()]
    random_state = torch.get_rng_state()
    plan_train(net, inputs, labels, runtime, key={})
    plan_forward(net, inputs, runtime, key={})
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.equal(random_state, torch.get_rng_state())
    assert [weight.stride() for weight in net.parameters()] == strides
    assert all(weight.grad is None for weight in net.parameters())
    assert all(part.training is training for part in net.modules())


def test_bf16_that_disagrees_in_the_features_is_rejected_with_numbers(runtime):
    plan = plan_forward(Cancels(), torch.randn(8, 6), runtime, key={})
    assert plan.precision == "fp32"
    assert "relative error" in plan.rejected["bf16 contiguous"]
    assert "bf16 contiguous" not in plan.seconds


def test_bf16_that_disagrees_in_the_gradient_is_rejected_under_a_head_of_zeros(runtime):
    net = nn.Sequential(Cancels(), nn.ReLU(), nn.Linear(4, 4))
    nn.init.zeros_(net[2].weight)
    plan = plan_train(net, torch.randn(8, 6), torch.arange(8) % 4, runtime, key={})
    assert plan.precision == "fp32"
    assert "gradient cosine" in plan.rejected["bf16 contiguous"]
    assert not net[2].weight.any()


def test_bf16_that_raises_is_rejected_with_the_reason(runtime):
    plan = plan_forward(NeedsFloat32(), torch.randn(8, 6), runtime, key={})
    assert plan.precision == "fp32"
    assert "BFloat16" in plan.rejected["bf16 contiguous"]


def test_bf16_that_is_not_finite_is_rejected(runtime):
    plan = plan_forward(OverflowsInBfloat16(), torch.randn(8, 6), runtime, key={})
    assert plan.rejected == {"bf16 contiguous": "not finite"}


def test_dropout_does_not_make_a_precision_disagree(runtime):
    inputs, labels = make_batch()
    plan = plan_train(make_conv_net().train(), inputs, labels, runtime, key={})
    assert plan.rejected == {}


def test_what_trains_is_part_of_what_a_plan_is_remembered_by(runtime):
    net, (inputs, labels) = make_conv_net(), make_batch()
    net[0].requires_grad_(False)
    plan = plan_train(net, inputs, labels, runtime, key={})
    whole = plan_train(make_conv_net(), inputs, labels, runtime, key={})
    assert plan.source == whole.source == "measured"


def test_images_have_two_formats_and_vectors_one():
    names = [candidate.name for candidate in candidates(CPU, True)]
    assert names == [
        "fp32 channels_last",
        "fp32 contiguous",
        "bf16 channels_last",
        "bf16 contiguous",
    ]
    assert [candidate.name for candidate in candidates(CPU, False)] == [
        "fp32 contiguous",
        "bf16 contiguous",
    ]


@pytest.mark.parametrize(
    ("bf16_seconds", "expected"), [(0.97, "fp32"), (0.94, "bf16"), (1.5, "fp32")]
)
def test_a_reduced_precision_must_gain_more_than_five_percent(bf16_seconds, expected):
    seconds = {
        Candidate("fp32", "channels_last"): 1.0,
        Candidate("bf16", "channels_last"): bf16_seconds,
    }
    assert choose(seconds).precision == expected


def test_a_near_tie_of_formats_goes_to_channels_last_whichever_is_ahead():
    last, contiguous = Candidate("fp32", "channels_last"), Candidate("fp32", "contiguous")
    assert choose({last: 1.03, contiguous: 1.0}) == last
    assert choose({last: 1.0, contiguous: 1.03}) == last
    assert choose({last: 1.2, contiguous: 1.0}) == contiguous


def test_a_plan_in_force_changes_the_order_of_weights_and_not_their_values():
    net = make_conv_net()
    weight = net[0].weight
    before = weight.detach().clone()
    assert apply_plan(net, NumericsPlan(memory_format="channels_last")) is net
    assert net[0].weight is weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    assert torch.equal(weight, before)
    apply_plan(net, NumericsPlan(memory_format="contiguous"))
    assert weight.is_contiguous()


def test_images_get_the_format_and_vectors_stay():
    images, vectors = torch.randn(2, 3, 4, 4), torch.randn(2, 6)
    plan = NumericsPlan(memory_format="channels_last")
    assert prepare_inputs(images, plan).is_contiguous(memory_format=torch.channels_last)
    assert prepare_inputs(vectors, plan) is vectors


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)]
)
def test_a_pass_runs_in_the_precision_of_its_plan_whatever_surrounds_it(precision, dtype):
    linear, x = nn.Linear(4, 4), torch.randn(2, 4)
    plan = NumericsPlan(precision=precision)
    with torch.autocast("cpu", dtype=torch.bfloat16), autocast(plan, CPU):
        assert linear(x).dtype == dtype


def test_a_large_batch_is_timed_on_a_part_of_it(runtime, tmp_path: Path):
    class Slow(nn.Module):
        sizes: tuple[int, ...] = ()

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            Slow.sizes += (len(x),)
            torch.arange(len(x) * 100_000).sum()
            return self.linear(x)

    plan_forward(Slow(), torch.randn(50_000, 6), runtime, key={})
    assert 8 <= max(Slow.sizes) < 50_000


@pytest.mark.parametrize(("precision", "kernels"), [("fp32", "ieee"), ("tf32", "tf32")])
def test_a_trials_backward_pass_uses_tf32_only_where_its_candidate_does(precision, kernels):
    seen = []

    class Watched(nn.Linear):
        def forward(self, inputs):
            outputs = super().forward(inputs)
            conv = torch.backends.cudnn.conv
            outputs.register_hook(lambda gradient: seen.append(conv.fp32_precision))
            return outputs

    trial = TrainTrial(Watched(4, 3), torch.randn(8, 4), CPU, torch.arange(8) % 3)
    # The flags belong to CUDA but can be read anywhere; the arithmetic stays where the tensors are.
    trial.device = torch.device("cuda")
    before = torch.backends.cudnn.conv.fp32_precision
    trial.outcome(Candidate(precision, "contiguous"))
    assert seen == [kernels]
    assert torch.backends.cudnn.conv.fp32_precision == before
