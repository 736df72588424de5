import copy

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from bench.numerics.folding import fold_batch_norms


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
