"""Ordered stages of many architectures: together they own every parameter exactly once."""

import pytest
import timm
import torch
import torchvision.models
from torch import nn

from bench.backbones.stages import check_stages, hub_stages, stages_of, timm_stages
from bench.backbones.stages import torchvision_stages as of_torchvision
from bench.backbones.torchvision import _drop_classifier
from bench.errors import BackboneError
from bench.interfaces import Stage

TIMM = {
    "test_resnet": ("stem", "layer1", "layer2", "layer3", "layer4"),
    "test_efficientnet": ("stem", *(f"blocks.{i}" for i in range(5))),
    "mobilenetv3_small_050": ("stem", *(f"blocks.{i}" for i in range(6))),
    "test_convnext": ("stem", *(f"stages.{i}" for i in range(4))),
    "test_vit": ("stem", *(f"blocks.{i}" for i in range(6))),
    "test_vit3": ("stem", *(f"blocks.{i}" for i in range(9))),
    "deit_tiny_distilled_patch16_224": ("stem", *(f"blocks.{i}" for i in range(12))),
    "swin_tiny_patch4_window7_224": ("stem", *(f"layers.{i}" for i in range(4))),
    "regnetx_002": ("stem", "s1", "s2", "s3", "s4"),
    "densenet121": ("stem", *(f"features.denseblock{i}" for i in range(1, 5))),
    "test_maxvit": ("stem", *(f"stages.{i}" for i in range(4))),
    "mobilenetv4_conv_small": ("stem", *(f"blocks.{i}" for i in range(5))),
    "poolformer_s12": ("stem", *(f"stages.{i}" for i in range(4))),
    "pit_ti_224": ("stem", *(f"transformers.{i}" for i in range(3))),
    "rdnet_tiny": ("stem", *(f"dense_stages.{i}" for i in range(7))),
}
TORCHVISION = {
    "resnet18": ("stem", "layer1", "layer2", "layer3", "layer4"),
    "densenet121": ("stem", *(f"features.denseblock{i}" for i in range(1, 5))),
    "convnext_tiny": ("stem", *(f"features.{i}" for i in (1, 3, 5, 7))),
    "swin_t": ("stem", *(f"features.{i}" for i in (1, 3, 5, 7))),
    "vit_b_32": ("stem", *(f"encoder.layers.encoder_layer_{i}" for i in range(12))),
    "efficientnet_b0": ("stem", *(f"features.{i}" for i in range(1, 8))),
    "mobilenet_v3_small": ("stem", *(f"features.{i}" for i in range(1, 12))),
    "regnet_x_400mf": ("stem", *(f"trunk_output.block{i}" for i in range(1, 5))),
    "maxvit_t": ("stem", *(f"blocks.{i}" for i in range(4))),
}


def assert_partition(model: nn.Module, stages: tuple[Stage, ...]) -> None:
    owned = [name for stage in stages for name in stage.parameters]
    for stage in stages:
        for path in stage.modules:
            owned += [f"{path}.{name}" for name, _ in model.get_submodule(path).named_parameters()]
    assert sorted(owned) == sorted(name for name, _ in model.named_parameters())


@pytest.mark.parametrize("name", TIMM)
def test_timm_stages_are_named_ordered_and_complete(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    stages = timm_stages(model)
    assert tuple(stage.name for stage in stages) == TIMM[name]
    assert_partition(model, stages)


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_stages_are_named_ordered_and_complete(name: str) -> None:
    # RegNet computes its widths with tensors, which needs their values.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        model = torchvision.models.get_model(name)
    _drop_classifier(model, name)
    stages = of_torchvision(model)
    assert tuple(stage.name for stage in stages) == TORCHVISION[name]
    assert_partition(model, stages)


def test_what_follows_the_last_block_belongs_to_it_and_tokens_to_the_stem() -> None:
    stages = timm_stages(timm.create_model("test_vit", num_classes=0))
    assert stages[0] == Stage("stem", ("patch_embed",), ("cls_token", "pos_embed"))
    assert stages[-1] == Stage("blocks.5", ("blocks.5", "norm"))


def test_a_transition_belongs_to_the_block_after_it() -> None:
    with torch.device("meta"):
        stages = of_torchvision(torchvision.models.densenet121())
    assert stages[2] == Stage(
        "features.denseblock2", ("features.transition1", "features.denseblock2")
    )


def test_every_convolution_of_a_plain_chain_is_a_stage() -> None:
    with torch.device("meta"):
        model = torchvision.models.alexnet()
    _drop_classifier(model, "alexnet")
    stages = of_torchvision(model)
    assert [stage.name for stage in stages] == [
        "stem", "features.3", "features.6", "features.8", "features.10", "classifier",
    ]  # fmt: skip
    assert_partition(model, stages)


def test_a_model_without_a_list_of_layers_is_one_stage() -> None:
    model = nn.Linear(2, 2)
    assert hub_stages(model) == (Stage("stem", (), ("weight", "bias")),)


def test_a_parameter_shared_by_two_modules_is_owned_once() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    stages = stages_of(model, {"0.weight": 0, "0.bias": 0, "1.bias": 1})
    assert stages == (Stage("stem", ("0",)), Stage("1.bias", (), ("1.bias",)))


def test_a_parameter_without_stage_or_with_two_is_an_error() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(BackboneError, match=r"Sequential: 2 parameters .* two: 1.weight, 1.bias"):
        check_stages(model, (Stage("stem", ("0",)),))
    with pytest.raises(BackboneError, match=r"1 parameters belong to no stage or to two: 0.bias"):
        check_stages(model, (Stage("stem", ("0", "1")), Stage("x", (), ("0.bias",))))
    with pytest.raises(BackboneError, match="no stage"):
        stages_of(model, {"0.weight": 0, "0.bias": 0})


def test_a_tiny_transformer_whose_patches_outweigh_its_layers_is_cut_at_its_layers() -> None:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=64,
        patch_size=16,
    )
    stages = hub_stages(ViTModel(config, add_pooling_layer=False))
    # What the list is called depends on the version of transformers.
    assert stages[0].name == "stem"
    assert [stage.name.rpartition(".")[2] for stage in stages[1:]] == ["0", "1"]
