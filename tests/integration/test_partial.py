import copy

import pytest
import torch
from torch import Tensor

from bench.errors import StrategyError
from bench.interfaces import Stage
from bench.registry import strategy
from bench.strategies.freeze import Trained, check_frozen, digest_tensors
from bench.strategies.head import Classifier, make_head
from bench.strategies.partial import Partial, PartialSpec
from tests.training import (
    SmallNet,
    make_backbone,
    make_split,
    make_task,
    small_backbone,
    timm_backbone,
)

EFFICIENTNET = (
    Stage("stem", ("conv_stem", "bn1")),
    Stage("blocks", ("blocks",)),
    Stage("top", ("conv_head", "bn2")),
)
VIT = (
    Stage("embed", ("patch_embed",), ("cls_token", "reg_token", "pos_embed")),
    Stage("early", ("blocks.0", "blocks.1", "blocks.2")),
    Stage("late", ("blocks.3", "blocks.4", "blocks.5", "norm", "fc_norm")),
)


def test_partial_is_registered_and_needs_val_for_a_grid_of_stages() -> None:
    found = strategy("partial")
    assert isinstance(found, Partial) and found.trains_backbone
    assert found.needs_val(PartialSpec(epochs=1, trainable_stages=(1, 2)))
    assert not found.needs_val(PartialSpec(epochs=1))


@pytest.mark.parametrize(
    ("name", "stages", "frozen"),
    [
        ("test_efficientnet", EFFICIENTNET, ("conv_stem", "bn1", "blocks")),
        ("test_vit", VIT, ("patch_embed", "cls_token", "pos_embed", "blocks.0", "blocks.2")),
    ],
)
def test_the_frozen_prefix_keeps_every_bit(
    name: str, stages: tuple[Stage, ...], frozen: tuple[str, ...]
) -> None:
    backbone = timm_backbone(name, stages)
    before = copy.deepcopy(backbone.module.state_dict())
    spec = PartialSpec(epochs=1, batch_size=16, learning_rate=0.01)
    adapted = Partial().adapt(make_task(backbone), spec)
    after = backbone.module.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed and not [key for key in changed if key.startswith(frozen)]
    trained = sum(value.numel() for value in backbone.module.parameters() if value.requires_grad)
    head = adapted.classifier.head  # type: ignore[union-attr]
    assert adapted.num_trainable_parameters == trained + head.weight.numel() + head.bias.numel()


def test_batch_norms_with_children_stay_in_eval_mode_in_the_prefix() -> None:
    backbone = timm_backbone("test_efficientnet", EFFICIENTNET)
    trained = Trained(
        Classifier(backbone.module, make_head(backbone.info.feature_dim, 3)), EFFICIENTNET[-1:]
    )
    trained.train()
    module = backbone.module
    assert list(module.bn1.children()), "the case this test is for"
    assert not any(part.training for part in module.bn1.modules())
    assert not any(part.training for part in module.blocks.modules())
    assert all(part.training for part in module.bn2.modules())


def test_the_frozen_prefix_keeps_no_activations() -> None:
    backbone = small_backbone()
    trained = Trained(Classifier(backbone.module, make_head(16, 3)), backbone.stages[-1:])
    trained.require_gradients()
    trained.train()
    seen: list[Tensor] = []
    backbone.module.middle.register_forward_hook(lambda *parts: seen.append(parts[2]))
    trained.classifier(torch.randn(4, 3, 16, 16)).sum().backward()
    assert seen[0].grad_fn is None


def test_a_grid_of_stages_trains_each_from_the_same_start() -> None:
    def run(stages: int | tuple[int, ...]):  # type: ignore[no-untyped-def]
        spec = PartialSpec(epochs=2, batch_size=16, learning_rate=0.02, trainable_stages=stages)
        return Partial().adapt(make_task(), spec)

    grid = run((1, 3, 2))
    assert grid.selection is not None
    assert [point.setting for point in grid.selection.points] == [
        {"trainable_stages": count} for count in (1, 3, 2)
    ]
    chosen = (1, 3, 2)[grid.selection.chosen]
    alone = run(chosen)
    test = make_split("test", 20, 9)
    assert torch.equal(grid.predict(test), alone.predict(test))
    assert grid.num_trainable_parameters == alone.num_trainable_parameters
    for count, point in zip((1, 3, 2), grid.selection.points, strict=True):
        single = run(count).selection
        assert single is not None and single.points[0].val_loss == point.val_loss


def test_the_training_step_leaves_the_prefix_alone() -> None:
    backbone = small_backbone()
    adapted = Partial().adapt(make_task(backbone), PartialSpec(epochs=1, batch_size=16))
    before = copy.deepcopy(backbone.module.state_dict())
    assert adapted.training_step is not None
    adapted.training_step()(torch.randn(16, 3, 16, 16), torch.arange(16) % 3)
    after = backbone.module.state_dict()
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"last"}


def test_more_stages_than_there_are_names_them() -> None:
    with pytest.raises(StrategyError) as caught:
        Partial().adapt(make_task(), PartialSpec(trainable_stages=4))
    assert str(caught.value) == (
        "partial: trainable_stages is 4, but test/net has 3 stages: stem, middle, last. Ask for 3 "
        "at most, or use full."
    )


def test_a_backbone_with_nothing_learned_is_refused() -> None:
    with pytest.raises(StrategyError, match="partial: test/net has nothing learned"):
        Partial().adapt(make_task(small_backbone(trainable=False)), PartialSpec())


class Counting(SmallNet):
    """A backbone that changes a frozen buffer in every forward pass, whatever its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        self.get_buffer("calls").add_(1)
        return super().forward(inputs)


def test_a_frozen_tensor_that_changes_is_an_error_that_names_it() -> None:
    stages = tuple(Stage(name, (name,)) for name in ("stem", "middle", "last"))
    backbone = make_backbone(Counting(), stages, 16)
    with pytest.raises(StrategyError) as caught:
        Partial().adapt(make_task(backbone), PartialSpec(epochs=1, batch_size=16))
    assert str(caught.value) == (
        "frozen tensors changed during training: backbone.calls. The backbone changes its state in "
        "eval mode; use full, or linear_probe."
    )


def test_a_change_of_one_bit_is_seen_and_many_names_are_cut() -> None:
    trained = Trained(Classifier(SmallNet(), make_head(16, 3)), ())
    before = digest_tensors(trained.frozen_tensors())
    trained.classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    check_frozen(before, trained)
    with torch.no_grad():
        for value in trained.classifier.backbone.parameters():
            value[0] = torch.nextafter(value[0], torch.tensor(9.0))
    with pytest.raises(StrategyError, match=r"and 7 more\. The backbone"):
        check_frozen(before, trained)
