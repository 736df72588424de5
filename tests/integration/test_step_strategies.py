"""The strategies that take steps, each run whole on a tiny backbone: what trains, and how."""

import copy
import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from bench.errors import StrategyError
from bench.interfaces import Adapted, Backbone, Stage
from bench.record import NumericsPlan
from bench.registry import strategy
from bench.spec import StrategySpec, TrainingSpec
from bench.strategies.anchor import Anchor
from bench.strategies.bias_only import BiasOnly, BiasOnlySpec
from bench.strategies.freeze import Trained
from bench.strategies.full import Full, FullSpec
from bench.strategies.gradual_unfreeze import GradualUnfreeze, GradualUnfreezeSpec
from bench.strategies.head import Classifier, make_head
from bench.strategies.l2_sp import L2Sp, L2SpSpec
from bench.strategies.layer_decay import LayerDecay, LayerDecaySpec, rate_factors
from bench.strategies.linear_probe import probe_head
from bench.strategies.loop import TrainStep
from bench.strategies.lora import Lora, LoraSpec
from bench.strategies.lp_ft import LpFt, LpFtSpec
from bench.strategies.norm_only import NormOnly, NormOnlySpec
from bench.strategies.rule import StepRule
from bench.strategies.schedule import make_optimizer, set_rate
from bench.strategies.scratch import Scratch, ScratchSpec
from tests.training import make_backbone, make_split, make_task, small_backbone, timm_backbone

STEPPING = {
    "bias_only": BiasOnly,
    "gradual_unfreeze": GradualUnfreeze,
    "l2_sp": L2Sp,
    "layer_decay": LayerDecay,
    "lora": Lora,
    "lp_ft": LpFt,
    "norm_only": NormOnly,
    "scratch": Scratch,
}
RUN = {"epochs": 2, "batch_size": 16, "learning_rate": 0.02}
VIT = (
    Stage("embed", ("patch_embed",), ("cls_token", "reg_token", "pos_embed")),
    *(Stage(f"block {i}", (f"blocks.{i}",)) for i in range(5)),
    Stage("top", ("blocks.5", "norm", "fc_norm")),
)


def random_backbone() -> Backbone:
    """Return the small backbone as a source gives it for ``weights: random``."""
    found = small_backbone()
    info = found.info.model_copy(update={"weights_source": "random (seed 0)"})
    return Backbone(found.module, info, found.preprocessing, found.stages)


def state_of(backbone: Backbone) -> dict[str, Tensor]:
    return copy.deepcopy(backbone.module.state_dict())


def changed(before: Mapping[str, Tensor], backbone: Backbone) -> set[str]:
    after = backbone.module.state_dict()
    assert set(after) == set(before)
    return {name for name in before if not torch.equal(before[name], after[name])}


def head_size(width: int = 16) -> int:
    return width * 3 + 3


@pytest.mark.parametrize("name", sorted(STEPPING))
def test_each_is_registered_and_learns_and_says_what_it_cost(name: str) -> None:
    found = strategy(name)
    assert type(found) is STEPPING[name] and found.trains_backbone and found.version == 1
    assert all(word in found.summary for word in ("train", ":", ";"))
    spec = found.Spec.model_validate({"name": name, **RUN, "epochs": 8})
    assert found.needs_val(spec)
    assert not found.needs_val(spec.model_copy(update={"epochs": 1}))
    adapted = found.adapt(make_task(random_backbone(), num_train=96), spec)
    test = make_split("test", 60, 9)
    accuracy = (adapted.predict(test).argmax(1).numpy() == test.labels).mean()
    assert accuracy > 0.8
    assert len(adapted.curve) == 8 and adapted.effective.effective_batch_size == 16
    assert adapted.num_parameters == random_backbone().info.num_parameters + head_size()
    assert adapted.training_step is not None
    before = copy.deepcopy(adapted.classifier)
    adapted.training_step()(torch.randn(16, 3, 16, 16), torch.arange(16) % 3)
    assert before is not None and adapted.classifier is not None
    moved = zip(before.head.parameters(), adapted.classifier.head.parameters(), strict=True)
    assert all(not torch.equal(old, new) for old, new in moved)


@pytest.mark.parametrize("name", sorted(STEPPING))
def test_each_refuses_a_backbone_with_nothing_learned(name: str) -> None:
    found = strategy(name)
    spec = found.Spec.model_validate({"name": name})
    with pytest.raises(StrategyError, match=f"{name}: test/net has nothing learned and nothing"):
        found.adapt(make_task(small_backbone(trainable=False)), spec)


@pytest.mark.parametrize("name", sorted(STEPPING))
def test_the_same_cell_gives_the_same_predictions(name: str) -> None:
    found, test = strategy(name), make_split("test", 20, 9)
    spec = found.Spec.model_validate({"name": name, **RUN})
    first, second = (
        found.adapt(make_task(random_backbone()), spec).predict(test) for _ in range(2)
    )
    assert torch.equal(first, second)


# What trains, by name; the rest keeps every bit


def test_norm_only_changes_scales_and_shifts_and_keeps_running_statistics() -> None:
    backbone = small_backbone()
    before = state_of(backbone)
    adapted = NormOnly().adapt(make_task(backbone), NormOnlySpec(**RUN))
    stages = ("stem", "middle", "last")
    kinds = ("weight", "bias")
    assert changed(before, backbone) == {f"{s}.1.{kind}" for s in stages for kind in kinds}
    assert adapted.num_trainable_parameters == 2 * (8 + 12 + 16) + head_size()


def test_bias_only_changes_biases_and_keeps_running_statistics() -> None:
    backbone = small_backbone()
    before = state_of(backbone)
    adapted = BiasOnly().adapt(make_task(backbone), BiasOnlySpec(**RUN))
    names = {f"{stage}.{layer}.bias" for stage in ("stem", "middle", "last") for layer in (0, 1)}
    assert changed(before, backbone) == names
    assert adapted.num_trainable_parameters == 2 * (8 + 12 + 16) + head_size()


def test_lora_keeps_every_weight_until_it_is_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.strategies.adapters import Adapters

    backbone = timm_backbone("test_vit", VIT)
    before = state_of(backbone)
    during: list[dict[str, Tensor]] = []
    merge = Adapters.merge

    def look_and_merge(self: Adapters) -> None:
        during.append(state_of(backbone))
        merge(self)

    monkeypatch.setattr(Adapters, "merge", look_and_merge)
    adapted = Lora().adapt(make_task(backbone), LoraSpec(**RUN, rank=4))
    plain = {name.replace(".base_layer", ""): value for name, value in during[0].items()}
    assert all(torch.equal(plain[name], value) for name, value in before.items())
    added = {name: value for name, value in plain.items() if name not in before}
    assert added and all(
        ".lora_" in name and value.abs().max() > 0 for name, value in added.items()
    )
    merged = {f"blocks.{i}.attn.{layer}.weight" for i in range(6) for layer in ("qkv", "proj")}
    assert changed(before, backbone) == merged
    width = backbone.info.feature_dim
    size = sum(value.numel() for value in added.values())
    assert size == 6 * 4 * (width + 3 * width + width + width)
    assert adapted.num_trainable_parameters == size + head_size(width)


def test_the_step_of_lora_trains_adapters_alone_after_it_was_merged() -> None:
    backbone = timm_backbone("test_vit", VIT)
    adapted = Lora().adapt(make_task(backbone), LoraSpec(**RUN, rank=4))
    assert adapted.training_step is not None and adapted.classifier is not None
    step = adapted.training_step()
    before = state_of(backbone)
    step(torch.randn(16, 3, 16, 16), torch.arange(16) % 3)
    assert changed(before, backbone) == {name for name in before if ".lora_" in name}
    trained = [value for value in adapted.classifier.parameters() if value.requires_grad]
    assert sum(value.numel() for value in trained) == adapted.num_trainable_parameters


@pytest.mark.parametrize(("epochs", "opened"), [(1, 0), (2, 1), (3, 2), (5, 3)])
def test_gradual_unfreezing_opens_one_stage_an_epoch(epochs: int, opened: int) -> None:
    backbone = small_backbone()
    before = state_of(backbone)
    spec = GradualUnfreezeSpec(**RUN | {"epochs": epochs}, warmup_fraction=0)
    adapted = GradualUnfreeze().adapt(make_task(backbone, num_val=None), spec)
    stages = {name.partition(".")[0] for name in changed(before, backbone)}
    assert stages == set(("last", "middle", "stem")[:opened])
    assert [epoch.val_accuracy for epoch in adapted.curve] == [None] * epochs
    open_stages = [backbone.module.get_submodule(name) for name in stages]
    size = sum(value.numel() for part in open_stages for value in part.parameters())
    assert adapted.num_trainable_parameters == size + head_size()


def test_gradual_unfreezing_can_open_several_stages_at_once() -> None:
    backbone = small_backbone()
    spec = GradualUnfreezeSpec(**RUN, stages_per_epoch=5)
    adapted = GradualUnfreeze().adapt(make_task(backbone), spec)
    assert adapted.num_trainable_parameters == adapted.num_parameters


def test_a_stage_that_is_still_frozen_keeps_its_bits_in_that_epoch() -> None:
    backbone = small_backbone()
    trained = Trained(
        Classifier(backbone.module, make_head(16, 3)),
        backbone.stages,
        StepRule(stages_in=lambda epoch: backbone.stages[3 - epoch :]),
    )
    first = trained.in_epoch(1)
    first.require_gradients()
    first.train()
    assert first.stages == backbone.stages[2:]
    assert {name.split(".")[0] for name, _ in _with_gradient(backbone)} == {"last"}
    assert not backbone.module.get_submodule("middle.1").training
    assert backbone.module.get_submodule("last.1").training


def _with_gradient(backbone: Backbone) -> list[tuple[str, nn.Parameter]]:
    named = backbone.module.named_parameters()
    return [(name, value) for name, value in named if value.requires_grad]


# Rates by layer


def test_rates_fall_from_the_head_to_the_input() -> None:
    task = make_task()
    factors = rate_factors(task, 0.5)
    names = {name for name, _ in task.backbone.module.named_parameters()}
    assert set(factors) == names
    assert {name.partition(".")[0]: value for name, value in factors.items()} == {
        "last": 0.5,
        "middle": 0.25,
        "stem": 0.125,
    }


def test_each_group_of_the_optimizer_keeps_its_share_of_the_rate() -> None:
    head, weight, bias = (nn.Parameter(torch.zeros(size)) for size in ((2, 2), (3, 3), (3,)))
    factors = {weight: 0.5, bias: 0.5}
    optimizer = make_optimizer([head, weight, bias], TrainingSpec(name="x"), factors)
    set_rate(optimizer, 0.1)
    groups = {
        id(value): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for value in group["params"]
    }
    assert groups == {id(head): (0.1, 0.01), id(weight): (0.05, 0.01), id(bias): (0.05, 0.0)}


def test_a_decay_of_one_is_full_and_a_small_one_holds_the_stem() -> None:
    test = make_split("test", 20, 9)
    full = Full().adapt(make_task(), FullSpec(**RUN))
    same = LayerDecay().adapt(make_task(), LayerDecaySpec(**RUN, decay=1.0))
    assert torch.equal(full.predict(test), same.predict(test))
    backbone = small_backbone()
    before = state_of(backbone)
    spec = LayerDecaySpec(**RUN, decay=0.01, weight_decay=0)
    LayerDecay().adapt(make_task(backbone), spec)
    after = backbone.module.state_dict()
    moved = {
        name: float((after[name] - before[name]).abs().max())
        for name in ("stem.0.weight", "last.0.weight")
    }
    assert 0 < moved["stem.0.weight"] < moved["last.0.weight"] / 100


def test_a_decay_can_be_a_grid() -> None:
    spec = LayerDecaySpec(**RUN, decay=(0.5, 0.9))
    adapted = LayerDecay().adapt(make_task(), spec)
    assert adapted.selection is not None
    assert [point.setting for point in adapted.selection.points] == [{"decay": 0.5}, {"decay": 0.9}]


# The penalty towards the pretrained weights


def test_the_penalty_adds_its_own_gradient_once_per_update() -> None:
    def gradients(anchored: bool, micro_batch: int | None) -> list[Tensor]:
        torch.manual_seed(0)
        classifier = Classifier(small_backbone().module.eval(), make_head(16, 3))
        anchor = Anchor()
        anchor.hold(classifier)
        with torch.no_grad():
            for value in classifier.parameters():
                value.add_(0.01)  # more would make gradients, and their rounding, huge
        rule = StepRule(add_gradients=lambda: anchor.add_gradients(10.0, 20.0))
        trained = Trained(classifier, None, rule if anchored else StepRule())
        setting = TrainingSpec(name="x", clip_norm=None, learning_rate=1e-12)
        step = TrainStep(trained, setting, NumericsPlan(), torch.device("cpu"), micro_batch)
        step(
            torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)),
            torch.arange(8) % 3,
        )
        assert all(value.grad is not None for value in classifier.parameters())
        return [value.grad for value in classifier.parameters() if value.grad is not None]

    plain = gradients(False, None)
    for micro_batch in (None, 4):
        pulled = gradients(True, micro_batch)
        differences = [one - other for one, other in zip(pulled, plain, strict=True)]
        for difference in differences[:-2]:
            assert torch.allclose(difference, torch.full_like(difference, 10 * 0.01), atol=1e-4)
        for difference in differences[-2:]:
            assert torch.allclose(difference, torch.full_like(difference, 20 * 0.01), atol=1e-4)


def distance(adapted: Adapted, before: Mapping[str, Tensor]) -> float:
    assert adapted.classifier is not None
    named = dict(adapted.classifier.backbone.named_parameters())  # type: ignore[union-attr]
    return math.sqrt(
        sum(float((value.detach() - before[name]).square().sum()) for name, value in named.items())
    )


def test_a_stronger_pull_stays_closer_and_none_is_full() -> None:
    def run(alpha: float) -> tuple[float, Tensor]:
        backbone = small_backbone()
        before = state_of(backbone)
        spec = L2SpSpec(**RUN | {"epochs": 6}, alpha=alpha, beta=0.0, optimizer="sgd")
        adapted = L2Sp().adapt(make_task(backbone, num_val=None), spec)
        return distance(adapted, before), adapted.predict(make_split("test", 20, 9))

    free, logits = run(0.0)
    far, near = run(0.1)[0], run(3.0)[0]
    assert near < far < free
    spec = FullSpec(**RUN | {"epochs": 6}, optimizer="sgd", weight_decay=0)
    full = Full().adapt(make_task(num_val=None), spec)
    assert torch.equal(full.predict(make_split("test", 20, 9)), logits)


# Heads and weights to begin with


def test_lp_ft_begins_at_the_probe() -> None:
    weight, bias = probe_head(make_task())
    spec = LpFtSpec(epochs=1, batch_size=16, learning_rate=1e-9)
    head = LpFt().adapt(make_task(), spec).classifier.head  # type: ignore[union-attr]
    assert weight.abs().max() > 0.01 and torch.allclose(head.weight, weight, atol=1e-6)
    assert torch.allclose(head.bias, bias, atol=1e-6)


def test_lp_ft_trains_every_weight_and_keeps_running_statistics() -> None:
    backbone = small_backbone()
    before = state_of(backbone)
    adapted = LpFt().adapt(make_task(backbone, num_val=None), LpFtSpec(**RUN))
    assert changed(before, backbone) == {name for name, _ in backbone.module.named_parameters()}
    assert adapted.num_trainable_parameters == adapted.num_parameters


def test_lp_ft_has_no_other_head_to_begin_with() -> None:
    with pytest.raises(ValueError, match="probe"):
        LpFtSpec(head_init="zeros")


def test_scratch_refuses_weights_that_were_learned() -> None:
    backbone = small_backbone()
    info = backbone.info.model_copy(update={"weights_source": "hub a/b@main"})
    learned = Backbone(backbone.module, info, backbone.preprocessing, backbone.stages)
    with pytest.raises(StrategyError) as caught:
        Scratch().adapt(make_task(learned), ScratchSpec())
    assert str(caught.value) == (
        "scratch: test/net was loaded with learned weights (hub a/b@main), so it would be no "
        "control. Give the cell's backbone weights: random; a suite that is planned does."
    )


# Backbones without what a strategy trains


class Bare(nn.Module):
    """A backbone of one parameter in no layer at all."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.mean(dim=(2, 3)) * self.scale


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "norm_only",
            "norm_only: test/net has no normalisation layer with parameters. Use bias_only, "
            "partial or lora, or leave the pair out with exclude.",
        ),
        (
            "bias_only",
            "bias_only: test/net has no bias terms. Use norm_only, partial or lora, or leave the "
            "pair out with exclude.",
        ),
        (
            "lora",
            "lora: test/net has no linear layer and no ungrouped convolution that could take an "
            "adapter. Use bias_only, norm_only or full, or leave the pair out with exclude.",
        ),
    ],
)
def test_a_backbone_without_any_target_is_one_clear_error(name: str, message: str) -> None:
    found = strategy(name)
    backbone = make_backbone(Bare(), (Stage("scale", (), ("scale",)),), 3)
    spec: StrategySpec = found.Spec.model_validate({"name": name})
    with pytest.raises(StrategyError) as caught:
        found.adapt(make_task(backbone), spec)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["bias_only", "gradual_unfreeze", "l2_sp", "lora", "norm_only"])
def test_every_setting_of_a_grid_begins_from_the_same_weights(name: str) -> None:
    found = strategy(name)

    def val_losses(rates: float | tuple[float, ...]) -> list[float | None]:
        fields = {"name": name, **RUN, "learning_rate": rates}
        adapted = found.adapt(make_task(random_backbone()), found.Spec.model_validate(fields))
        assert adapted.selection is not None
        return [point.val_loss for point in adapted.selection.points]

    assert val_losses((0.02, 0.005)) == [*val_losses(0.02), *val_losses(0.005)]


@pytest.mark.parametrize("name", ["bias_only", "gradual_unfreeze", "lora", "norm_only"])
def test_the_record_says_why_no_prefix_is_stored(name: str) -> None:
    found = strategy(name)
    task = make_task(random_backbone())
    adapted = found.adapt(task, found.Spec.model_validate({"name": name, **RUN}))
    (note,) = adapted.effective.notes
    assert note.startswith("frozen prefix run in every epoch: ")
    assert "prefix" not in task.runtime.phases  # type: ignore[attr-defined]
