import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from bench.artifacts import ArtifactCache
from bench.backbones.packaged import PackagedSource
from bench.interfaces import Adapted, Backbone, Split, Stage, Task
from bench.record import NumericsPlan
from bench.spec import BackboneSpec, Numerics
from bench.strategies import feed as feeds
from bench.strategies import prefix_cache
from bench.strategies.freeze import Trained
from bench.strategies.head import Classifier, make_head
from bench.strategies.partial import Partial, PartialSpec
from bench.strategies.prefix import PlainPath, find_cut
from tests.training import (
    SIZE,
    MemoryPool,
    SmallNet,
    TestRuntime,
    make_backbone,
    small_backbone,
)

CPU = torch.device("cpu")
FP32 = NumericsPlan(precision="fp32", memory_format="contiguous")
THREE = tuple(Stage(name, (name,)) for name in ("stem", "middle", "last"))


def load(name: str) -> Backbone:
    from bench.backbones.stages import timm_stages

    if name.startswith("packaged/"):
        return PackagedSource().load(BackboneSpec(name=name), image_size=_size(name)[0], seed=0)
    size = {"swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 2}}.get(name, {})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = timm.create_model(name, num_classes=0, **size)
    width = module(torch.zeros(2, 3, 64, 64) if size else torch.zeros(2, 3, *_size(name)))
    return make_backbone(module, timm_stages(module), width.shape[1])


def _size(name: str) -> tuple[int, int]:
    side = {"test_vit": 160, "packaged/efficientnet-lite0": 96}.get(name, 64)
    return side, side


def split_of(name: str, count: int, side: int) -> Split:
    rng = np.random.default_rng(len(name))
    images = rng.integers(0, 255, size=(count, side, side, 3), dtype=np.uint8)
    labels = np.arange(count, dtype=np.int64) % 3
    ids = tuple(f"{name}-{number}" for number in range(count))
    return Split(name, ids, labels, MemoryPool(images, name), np.arange(count), ids_digest=name)


def task_of(backbone: Backbone, side: int = SIZE, runtime: TestRuntime | None = None) -> Task:
    return Task(
        backbone=backbone,
        train=split_of("train", 26, side),
        val=split_of("val", 9, side),
        num_classes=3,
        seed=1,
        runtime=runtime or TestRuntime(),
    )


def plainly(run: Callable[[], Adapted], monkeypatch: pytest.MonkeyPatch) -> Adapted:
    """Run with a budget that no activations fit, the user's own way to the plain path."""
    with monkeypatch.context() as patched:
        patched.setattr(prefix_cache, "BUDGET_BYTES", 0)
        return run()


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize(
    "name",
    [
        "test_resnet",
        "test_efficientnet",
        "test_convnext",
        "test_vit",
        "resnet18",
        "swin_tiny_patch4_window7_224",
        "mobilenetv3_small_050",
        # With its real weights: under random ones the plain path's own curve moves by 1e-3 when
        # the weights are disturbed by 1e-7, so nothing could be said of the cut.
        "packaged/efficientnet-lite0",
    ],
)
def test_the_curve_from_activations_is_that_of_the_plain_path(
    name: str, stages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, side = load(name), _size(name)[0]
    spec = PartialSpec(epochs=2, batch_size=8, learning_rate=1e-3, trainable_stages=stages)

    def run() -> Adapted:
        return Partial().adapt(task_of(copy.deepcopy(backbone), side), spec)

    cached, plain = run(), plainly(run, monkeypatch)
    assert cached.effective.notes == ()
    assert plain.effective.notes[0].startswith("frozen prefix run in every epoch: activations")
    for one, other in zip(cached.curve, plain.curve, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, abs=1e-4)
        assert one.val_loss == pytest.approx(other.val_loss, abs=1e-4)
    before = backbone.module.state_dict()
    after = cached.classifier.backbone.state_dict()  # type: ignore[union-attr]
    frozen = tuple(f"{path}." for stage in backbone.stages[:-stages] for path in stage.modules)
    assert all(torch.equal(after[key], before[key]) for key in before if key.startswith(frozen))


def test_the_prefix_runs_once_for_all_epochs_grid_points_and_seeds() -> None:
    backbone, runtime = small_backbone(), TestRuntime()
    counted: list[int] = []
    backbone.module.middle[0].register_forward_hook(lambda *parts: counted.append(len(parts[2])))
    task = task_of(backbone, runtime=runtime)
    spec = PartialSpec(epochs=4, batch_size=8, learning_rate=(1e-3, 1e-4))
    start = copy.deepcopy(backbone.module.state_dict())
    Partial().adapt(task, spec)
    first = sum(counted)
    backbone.module.load_state_dict(start)
    counted.clear()
    # Another cell is another process, with a cache object of its own on the same folder.
    later = TestRuntime(cache=ArtifactCache(runtime.cache.root))
    Partial().adapt(replace(task, seed=2, runtime=later), spec)
    built = {use.built for use in runtime.cache.ledger.uses() if use.kind == "prefix"}
    reused = {use.built for use in later.cache.ledger.uses() if use.kind == "prefix"}
    assert (built, reused) == ({True}, {False})
    # Plan, check and layouts look at a few examples each time; 35 are the pass itself.
    assert first - sum(counted) >= 26 + 9


class Widened(nn.Module):
    """As many networks do behind a norm, it goes on in float32 under autocast."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.float()


def test_activations_are_narrowed_where_the_pass_is_and_nothing_is_lost() -> None:
    backbone = small_backbone()
    backbone.module.middle.append(Widened())
    vit = load("test_vit")

    def notes(backbone: Backbone, side: int, numerics: Numerics) -> tuple[str, ...]:
        task = task_of(copy.deepcopy(backbone), side, TestRuntime(numerics=numerics))
        return Partial().adapt(task, PartialSpec(epochs=1, batch_size=8)).effective.notes

    narrowed = ("activations kept as torch.bfloat16 of torch.float32, which agrees",)
    assert notes(backbone, SIZE, Numerics.BF16) == narrowed
    assert notes(backbone, SIZE, Numerics.FP32) == ()
    # Its residual stream has digits that bfloat16 has not, and the gradients notice.
    assert notes(vit, 160, Numerics.BF16) == ()


def test_streamed_activations_train_as_resident_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> Adapted:
        return Partial().adapt(task_of(small_backbone()), PartialSpec(epochs=2, batch_size=8))

    resident = run()
    monkeypatch.setattr(feeds, "HOST_BUDGET_BYTES", 0)
    streamed = run()
    assert [point.train_loss for point in streamed.curve] == [
        point.train_loss for point in resident.curve
    ]


def test_training_leaves_the_plain_model_for_predictions_and_the_profile() -> None:
    adapted = Partial().adapt(task_of(small_backbone()), PartialSpec(epochs=2, batch_size=8))
    assert type(adapted.classifier) is Classifier
    assert not [m for m in adapted.classifier.modules() if "forward" in m.__dict__]
    assert adapted.training_step is not None
    adapted.training_step()(torch.randn(8, 3, SIZE, SIZE), torch.arange(8) % 3)


def cut_of(module: nn.Module, trained: int = 1) -> str:
    part = Trained(Classifier(module, make_head(16, 3)), THREE[-trained:])
    part.require_gradients()
    part.train()
    before = copy.deepcopy(module.state_dict())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        images = torch.randn(8, 3, SIZE, SIZE)
    try:
        return find_cut(part, images, FP32, CPU).path
    finally:
        after = module.state_dict()
        assert all(torch.equal(after[key], before[key]) for key in before)


class Skipping(SmallNet):
    """The input reaches the last stage past the cut."""

    def forward(self, inputs: Tensor) -> Tensor:
        middle = self.middle(self.stem(inputs)) * inputs.mean(dim=(1, 2, 3), keepdim=True)
        return self.last(middle).mean(dim=(2, 3))


class Sized(SmallNet):
    """The output is shaped by the batch of the input."""

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.middle(self.stem(inputs))).mean(dim=(2, 3)).view(len(inputs), -1)


def test_the_cut_is_the_last_module_before_what_trains() -> None:
    assert cut_of(SmallNet()) == "middle"
    assert cut_of(SmallNet(), trained=2) == "stem"
    assert cut_of(SmallNet(dropout=0.5)) == "middle"


def test_a_model_that_is_not_the_plain_one_from_the_cut_is_refused() -> None:
    with pytest.raises(PlainPath, match=r"cut at .*: in eval mode it differs from the plain model"):
        cut_of(Skipping())
    with pytest.raises(PlainPath, match=r"cut at .*: in eval mode .*another shape or no gradient"):
        cut_of(Sized())


def test_where_everything_trains_there_is_no_cut() -> None:
    with pytest.raises(PlainPath, match="no module with one tensor as output ends before"):
        cut_of(SmallNet(), trained=3)


def test_a_refused_model_and_augmentation_train_plainly_and_say_why() -> None:
    refused = Partial().adapt(
        task_of(make_backbone(Skipping(), THREE, 16)), PartialSpec(epochs=1, batch_size=8)
    )
    assert refused.effective.notes[0].startswith("frozen prefix run in every epoch: cut at ")
    augmented = Partial().adapt(
        task_of(small_backbone()), PartialSpec(epochs=1, batch_size=8, augmentation="flip_crop")
    )
    assert augmented.effective.notes == ("frozen prefix run in every epoch: images are augmented",)
