import copy

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from bench.numerics import make_pass, plan_forward, prepare_inputs, rounds
from bench.numerics.applied import Candidate
from bench.numerics.folding import fold_batch_norms
from bench.numerics.trial import Trial
from bench.record import NumericsPlan
from bench.spec import Numerics
from tests.training import TestRuntime


def with_statistics(module: nn.Module) -> nn.Module:
    """Give batch norms statistics and weights of their own: the initial ones fold to nothing."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for value in (part.running_mean, part.running_var, part.weight, part.bias):
                value.data.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return module


def count_norms(module: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in module.modules())


@pytest.mark.parametrize(
    "make",
    [
        lambda: timm.create_model("test_resnet", num_classes=0),
        lambda: timm.create_model("test_efficientnet", num_classes=0),
        lambda: timm.create_model("tf_efficientnet_lite0", num_classes=0),
        lambda: torchvision.models.resnet18(),
        lambda: torchvision.models.mobilenet_v3_small(),
    ],
    ids=["timm resnet", "timm efficientnet", "same padding", "torchvision resnet", "mobilenet"],
)
def test_a_folded_network_is_the_same_function_without_batch_norms(make) -> None:  # type: ignore[no-untyped-def]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module, images = with_statistics(make()), torch.randn(2, 3, 64, 64)
    before = copy.deepcopy(module.state_dict())
    folded = fold_batch_norms(module, images[:1])
    assert folded is not None
    assert (count_norms(folded), count_norms(module) > 0) == (0, True)
    with torch.no_grad():
        expected, got = module.eval()(images), folded(images)
    assert float((got - expected).norm() / expected.norm()) < 1e-4
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_where_no_batch_norm_follows_a_convolution_there_is_nothing_to_fold() -> None:
    images = torch.zeros(1, 3, 160, 160)
    assert fold_batch_norms(timm.create_model("test_vit", num_classes=0), images) is None


class Twice(nn.Module):
    """One convolution runs twice, before one norm and another: neither may be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.conv(self.first(self.conv(images))))


def test_a_convolution_that_runs_twice_is_left_alone() -> None:
    assert fold_batch_norms(Twice(), torch.zeros(1, 3, 4, 4)) is None


class Counts(nn.Module):
    """It changes a buffer in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return self.norm(self.conv(images))


def test_a_network_that_changes_its_buffers_is_left_for_others_to_refuse() -> None:
    assert fold_batch_norms(Counts(), torch.zeros(1, 3, 4, 4)) is None


def test_a_folded_pass_gives_what_the_module_gives_also_in_inference_mode() -> None:
    module = with_statistics(timm.create_model("test_resnet", num_classes=0)).eval()
    plan, images = (
        NumericsPlan(memory_format="channels_last", folded=True),
        torch.randn(5, 3, 64, 64),
    )
    forward = make_pass(module, plan)
    with torch.inference_mode():
        expected, got = module(images), forward(prepare_inputs(images, plan))
    assert float((got - expected).norm() / expected.norm()) < 1e-4
    assert count_norms(module) > 0
    # Training goes on from weights that nothing has touched.
    module.train()(images).sum().backward()


@pytest.mark.parametrize(("seconds", "folds"), [(0.8, True), (0.97, False)])
def test_a_forward_plan_folds_where_that_is_clearly_quicker(
    monkeypatch: pytest.MonkeyPatch, seconds: float, folds: bool
) -> None:
    """Every pass runs; what it took is given, since this machine may be busy with other tests."""
    monkeypatch.setattr(rounds, "MAX_WAITING", float("inf"))
    run, timed = Trial.seconds, {"fp32 channels_last": 1.0, "fp32 channels_last folded": seconds}

    def run_and_give(trial: Trial, candidate: Candidate) -> float:
        assert run(trial, candidate) > 0
        return timed.get(candidate.name, 2.0)

    monkeypatch.setattr(Trial, "seconds", run_and_give)
    module = with_statistics(timm.create_model("test_efficientnet", num_classes=0))
    runtime = TestRuntime(numerics=Numerics.AUTO)
    plan = plan_forward(module, torch.randn(64, 3, 64, 64), runtime, key={"weights": "x"})
    assert plan.seconds["fp32 channels_last folded"] == seconds
    assert (plan.precision, plan.memory_format, plan.folded) == ("fp32", "channels_last", folds)
    assert plan.batch_size == 64


class Leaks(nn.Module):
    """What a convolution gives is read by a norm and by something else: folding changes it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)

    def forward(self, images: Tensor) -> Tensor:
        made = self.conv(images)
        return (self.norm(made) + made).mean(dim=(2, 3))


def test_where_folding_is_not_exact_it_is_rejected_in_every_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rounds, "MAX_WAITING", float("inf"))
    module = with_statistics(Leaks())
    runtime = TestRuntime(numerics=Numerics.AUTO)
    plan = plan_forward(module, torch.randn(8, 3, 8, 8), runtime, key={"weights": "y"})
    assert plan.rejected["fp32 channels_last folded"].startswith("features: cosine")
    assert plan.rejected["bf16 channels_last folded"] == "folding is not exact in fp32"
    assert not plan.folded
