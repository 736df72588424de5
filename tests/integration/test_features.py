"""Frozen features: computed once, the same as the plain pass, and checked."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.artifacts import ArtifactCache
from bench.errors import StrategyError
from bench.interfaces import Backbone, Split
from bench.spec import Numerics
from bench.strategies.features import count_constant, extract_features, plan_features
from bench.strategies.inputs import load_batch, normalise
from tests.training import TestRuntime, make_backbone, make_split, small_backbone


class Broken(nn.Module):
    """Gives features that some test needs: what it does is a function of the batch."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.register_buffer("count", torch.zeros(1))

    def forward(self, inputs: Tensor) -> Tensor:
        features = inputs.mean(dim=(2, 3)).repeat(1, 2)
        if self.mode == "wide":
            return features.repeat(1, 2)
        if self.mode == "counts":
            assert isinstance(self.count, Tensor)
            self.count += 1
        if self.mode == "nan":
            features[0, 0] = torch.nan
        return features


def broken_backbone(mode: str) -> Backbone:
    backbone = make_backbone(Broken(mode), (), 6)
    info = backbone.info.model_copy(update={"name": f"test/{mode}"})
    return replace(backbone, info=info)


def part_of(split: Split, positions: np.ndarray) -> Split:
    return replace(
        split,
        ids=tuple(split.ids[i] for i in positions),
        labels=split.labels[positions],
        rows=split.rows[positions],
    )


def plain_features(backbone: Backbone, split: Split) -> Tensor:
    images = load_batch(split, slice(None), torch.device("cpu"))
    with torch.no_grad():
        features: Tensor = backbone.module.eval()(normalise(images, backbone.preprocessing))
    return features


def test_features_are_those_of_the_plain_pass() -> None:
    backbone, split, runtime = (
        small_backbone(dropout=0.5),
        make_split("train", 40, 1),
        TestRuntime(),
    )
    features = extract_features(backbone, split, runtime)
    assert features.dtype == torch.float32 and features.shape == (40, 16)
    torch.testing.assert_close(features, plain_features(backbone, split), rtol=1e-5, atol=1e-6)


def test_the_order_of_a_split_is_kept() -> None:
    backbone, split, runtime = small_backbone(), make_split("train", 40, 1), TestRuntime()
    features = extract_features(backbone, split, runtime)
    shuffled = np.random.default_rng(0).permutation(40)
    again = extract_features(backbone, part_of(split, shuffled), runtime)
    assert torch.equal(again, features[torch.from_numpy(shuffled)])


def test_only_images_never_met_are_computed() -> None:
    backbone, split, runtime = small_backbone(), make_split("train", 40, 1), TestRuntime()
    batches: list[int] = []
    backbone.module.register_forward_hook(lambda _, args, __: batches.append(len(args[0])))
    plan = plan_features(backbone, split, runtime)
    batches.clear()
    extract_features(backbone, part_of(split, np.arange(30)), runtime, plan)
    extract_features(backbone, part_of(split, np.arange(20, 40)), runtime, plan)
    extract_features(backbone, split, runtime, plan)
    assert sum(batches) == 40


def test_another_cell_reads_them_and_says_what_they_had_cost() -> None:
    backbone, split, runtime = small_backbone(), make_split("train", 40, 1), TestRuntime()
    first = extract_features(backbone, split, runtime)
    other = TestRuntime(cache=ArtifactCache(runtime.cache.root))
    assert torch.equal(extract_features(backbone, split, other), first)
    (built,) = (use for use in runtime.cache.ledger.uses() if use.kind == "features")
    (reused,) = (use for use in other.cache.ledger.uses() if use.kind == "features")
    assert built.built and not reused.built
    assert reused.seconds == pytest.approx(built.seconds)


def test_other_weights_or_statistics_are_other_features() -> None:
    split, runtime = make_split("train", 10, 1), TestRuntime()
    backbone = small_backbone()
    first = extract_features(backbone, split, runtime)
    darker = replace(
        backbone, preprocessing=backbone.preprocessing.model_copy(update={"mean": (0.1,) * 3})
    )
    assert not torch.equal(extract_features(darker, split, runtime), first)
    other = replace(
        small_backbone(), info=backbone.info.model_copy(update={"weights_digest": "1" * 64})
    )
    with torch.no_grad():
        next(other.module.parameters()).mul_(2)
    assert not torch.equal(extract_features(other, split, runtime), first)


def test_a_backbone_in_train_mode_keeps_its_buffers_and_ends_in_eval_mode() -> None:
    backbone, runtime = small_backbone(), TestRuntime()
    backbone.module.train()
    before = {name: value.clone() for name, value in backbone.module.named_buffers()}
    extract_features(backbone, make_split("train", 20, 1), runtime)
    assert before and not any(module.training for module in backbone.module.modules())
    for name, value in backbone.module.named_buffers():
        assert torch.equal(value, before[name])


def test_buffers_that_change_in_eval_mode_are_an_error() -> None:
    with pytest.raises(
        StrategyError, match=r"test/counts changes its buffers in eval mode \(count"
    ):
        extract_features(broken_backbone("counts"), make_split("train", 8, 1), TestRuntime())


def test_features_that_are_not_finite_are_an_error_that_names_examples() -> None:
    split = make_split("train", 8, 1)
    with pytest.raises(StrategyError, match=r"1 of 8 train examples are not finite .*train-0"):
        extract_features(broken_backbone("nan"), split, TestRuntime())


def test_a_width_other_than_declared_is_an_error() -> None:
    with pytest.raises(StrategyError, match=r"shape \(8, 12\), expected \(8, 6\)"):
        extract_features(broken_backbone("wide"), make_split("train", 8, 1), TestRuntime())


def test_constant_dimensions_are_counted() -> None:
    features = torch.randn(5, 4)
    features[:, 1] = 3.0
    assert count_constant(features, small_backbone()) == 1


def test_features_that_are_all_constant_are_an_error() -> None:
    with pytest.raises(StrategyError, match="all 4 features are the same for all 5 train examples"):
        count_constant(torch.ones(5, 4), small_backbone())


def test_a_long_extraction_tells_how_far_it_is_and_a_short_one_nothing() -> None:
    split, runtime, backbone = make_split("train", 400, 1), TestRuntime(), small_backbone()
    plan = plan_features(backbone, split, runtime)
    extract_features(backbone, part_of(split, np.arange(100)), runtime, plan)
    assert runtime.emitted == []
    backbone.module.register_forward_hook(lambda *_: time.sleep(0.4))
    extract_features(backbone, split, runtime, plan)
    ticks = [(tick.phase, tick.num_done, tick.num_total) for tick in runtime.emitted]
    assert 1 <= len(ticks) <= 2, "five batches of 0.4 s"
    assert ticks[0] in [("features", 128, 300), ("features", 192, 300)]


def test_the_plan_is_the_same_for_every_number_of_train_examples() -> None:
    backbone, runtime = small_backbone(), TestRuntime(numerics=Numerics.AUTO)
    many = plan_features(backbone, make_split("train", 90, 1), runtime)
    for size in (1, 10, 63):
        few = plan_features(backbone, make_split("train", size, 1), runtime)
        assert few == many.model_copy(update={"source": "recalled"})
