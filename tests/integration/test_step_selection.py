"""What norm_only, bias_only and lora select in a ViT, a ResNet and a BERT: names and counts."""

import re
import sys

import pytest
import timm
import torch
from torch import nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

from bench.errors import StrategyError
from bench.strategies.adapters import Adapters, find_targets
from bench.strategies.bias_only import bias_names
from bench.strategies.norm_only import norm_names

LAYERS, WIDTH = 2, 32


def vit() -> nn.Module:
    return timm.create_model("test_vit", num_classes=0).eval()


def resnet() -> nn.Module:
    return timm.create_model("test_resnet", num_classes=0).eval()


def bert() -> nn.Module:
    config = BertConfig(
        vocab_size=50,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=16,
    )
    return BertModel(config, add_pooling_layer=False).eval()


def see(module: nn.Module) -> None:
    module(torch.zeros(1, 3, 160, 160))


def read(module: nn.Module) -> None:
    module(input_ids=torch.ones(1, 5, dtype=torch.long))


def count(module: nn.Module, names: tuple[str, ...]) -> int:
    return sum(module.get_parameter(name).numel() for name in names)


def test_the_biases_of_a_vit_are_those_of_every_layer_and_no_weight() -> None:
    module = vit()
    width, depth = module.embed_dim, len(module.blocks)
    hidden = module.blocks[0].mlp.fc1.out_features
    names = bias_names(module)
    per_block = {"norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"}
    of_blocks = {f"blocks.{i}.{layer}.bias" for i in range(depth) for layer in per_block}
    assert set(names) == of_blocks | {"patch_embed.proj.bias", "norm.bias"}
    assert count(module, names) == depth * (7 * width + hidden) + 2 * width


def test_the_biases_of_a_resnet_are_those_of_its_batch_norms() -> None:
    module = resnet()
    norms = {
        path: part for path, part in module.named_modules() if isinstance(part, nn.BatchNorm2d)
    }
    names = bias_names(module)
    assert set(names) == {f"{path}.bias" for path in norms}
    assert count(module, names) == sum(part.num_features for part in norms.values())


def test_the_biases_of_a_bert_are_query_key_value_output_mlp_and_norms() -> None:
    module = bert()
    names = bias_names(module)
    layer = "encoder.layer.0."
    assert {name.removeprefix(layer) for name in names if name.startswith(layer)} == {
        "attention.self.query.bias",
        "attention.self.key.bias",
        "attention.self.value.bias",
        "attention.output.dense.bias",
        "attention.output.LayerNorm.bias",
        "intermediate.dense.bias",
        "output.dense.bias",
        "output.LayerNorm.bias",
    }
    assert [name for name in names if not name.startswith("encoder.layer.")] == [
        "embeddings.LayerNorm.bias"
    ]
    assert count(module, names) == LAYERS * (7 * WIDTH + 64) + WIDTH


def test_a_table_of_relative_positions_is_no_bias_term() -> None:
    module = nn.Module()
    module.relative_position_bias_table = nn.Parameter(torch.zeros(3, 2))
    module.q_bias = nn.Parameter(torch.zeros(2))
    assert bias_names(module) == ("q_bias",)


@pytest.mark.parametrize(
    ("build", "kinds"),
    [(vit, nn.LayerNorm), (resnet, nn.BatchNorm2d), (bert, nn.LayerNorm)],
)
def test_the_norms_are_all_of_them_with_scale_and_shift(build, kinds) -> None:
    module = build()
    expected = {path: part for path, part in module.named_modules() if isinstance(part, kinds)}
    names = norm_names(module)
    assert set(names) == {f"{path}.{name}" for path in expected for name in ("weight", "bias")}
    assert len(expected) > 3
    assert count(module, names) == 2 * sum(part.weight.numel() for part in expected.values())


def test_a_network_that_is_free_of_norms_has_none() -> None:
    module = timm.create_model("dm_nfnet_f0", num_classes=0, depths=(1, 1, 1, 1))
    assert any("NormFree" in type(part).__name__ for part in module.modules())
    assert norm_names(module) == ()


def test_norms_of_other_makes_count_and_those_without_parameters_do_not() -> None:
    class OwnRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

    module = nn.Sequential(OwnRMSNorm(), nn.BatchNorm2d(4, affine=False), nn.Linear(4, 4))
    assert norm_names(module) == ("0.weight",)


def test_the_adapters_of_a_vit_sit_at_the_linear_layers_of_attention() -> None:
    module = vit()
    width, depth = module.embed_dim, len(module.blocks)
    targets = find_targets(module, lambda: see(module))
    assert targets == tuple(
        f"blocks.{i}.attn.{layer}" for i in range(depth) for layer in ("qkv", "proj")
    )
    names = Adapters(module, targets, 4, 8.0).parameters()
    assert set(names) == {f"{path}.lora_{side}.default.weight" for path in targets for side in "AB"}
    # A is rank x in, B is out x rank.
    assert count(module, names) == depth * 4 * ((width + 3 * width) + (width + width))


def test_the_adapters_of_a_bert_sit_at_query_key_value_and_output() -> None:
    module = bert()
    targets = find_targets(module, lambda: read(module))
    layers = ("self.query", "self.key", "self.value", "output.dense")
    assert targets == tuple(
        f"encoder.layer.{i}.attention.{layer}" for i in range(LAYERS) for layer in layers
    )
    names = Adapters(module, targets, 4, 8.0).parameters()
    assert count(module, names) == LAYERS * 4 * 4 * (WIDTH + WIDTH)


def test_the_adapters_of_a_resnet_sit_at_its_convolutions() -> None:
    module = resnet()
    convolutions = [part for part in module.modules() if isinstance(part, nn.Conv2d)]
    targets = find_targets(module, lambda: see(module))
    assert len(targets) == len(convolutions)
    expected = sum(
        4 * (part.in_channels * part.kernel_size[0] * part.kernel_size[1] + part.out_channels)
        for part in convolutions
    )
    names = Adapters(module, targets, 4, 8.0).parameters()
    assert count(module, names) == expected


def test_grouped_convolutions_get_no_adapter() -> None:
    module = timm.create_model("test_efficientnet", num_classes=0).eval()
    targets = find_targets(module, lambda: see(module))
    grouped = [path for path, part in module.named_modules() if getattr(part, "groups", 1) > 1]
    assert grouped and targets and not set(grouped) & set(targets)


def test_a_layer_whose_path_ends_like_a_target_gets_no_adapter() -> None:
    inner = nn.ModuleDict({"mix": nn.Conv2d(4, 4, 1, groups=4)})
    module = nn.ModuleDict({"mix": nn.Conv2d(3, 4, 1), "inner": inner})
    targets = find_targets(module, lambda: inner["mix"](module["mix"](torch.zeros(1, 3, 2, 2))))
    assert targets == ("mix",)
    names = Adapters(module, targets, 4, 8.0).parameters()
    assert names == tuple(f"mix.lora_{side}.default.weight" for side in "AB")


def test_the_transposed_linear_layers_of_gpt2_get_adapters() -> None:
    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=WIDTH, n_layer=1, n_head=2)
    module = GPT2Model(config).eval()
    targets = find_targets(module, lambda: read(module))
    assert targets == ("h.0.attn.c_attn", "h.0.attn.c_proj")
    names = Adapters(module, targets, 4, 8.0).parameters()
    assert count(module, names) == 4 * ((WIDTH + 3 * WIDTH) + (WIDTH + WIDTH))


def test_a_layer_that_is_used_without_being_called_gets_no_adapter() -> None:
    # torch's attention reads the weights of `out_proj` itself: an adapter there would do nothing.
    module = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).train()
    targets = find_targets(module, lambda: module(torch.zeros(1, 3, 8)))
    assert targets == ("linear1", "linear2")


@pytest.mark.parametrize("build", [vit, resnet])
def test_merging_keeps_the_outputs_and_the_architecture(build) -> None:
    torch.manual_seed(0)
    module = build()
    layers = {path: type(part) for path, part in module.named_modules()}
    targets = find_targets(module, lambda: see(module))
    adapters = Adapters(module, targets, 4, 8.0)
    with torch.no_grad():
        for name in adapters.parameters():
            module.get_parameter(name).normal_(std=0.02)
    inputs = torch.randn(2, 3, 160, 160)
    apart, plain = module(inputs), build()
    adapters.merge()
    assert {path: type(part) for path, part in module.named_modules()} == layers
    assert sum(p.numel() for p in module.parameters()) == sum(p.numel() for p in plain.parameters())
    merged = module(inputs)
    assert torch.allclose(apart, merged, atol=1e-4, rtol=1e-3)
    adapters.put_back()
    assert len(adapters.parameters()) == 2 * len(targets)
    assert torch.allclose(module(inputs), apart, atol=1e-4, rtol=1e-3)


def test_without_peft_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        StrategyError, match=re.escape("pip install 'transfer-bench[peft]'")
    ) as caught:
        Adapters(vit(), ("blocks.0.attn.qkv",), 4, 8.0)
    assert str(caught.value).startswith("lora: the package peft does not import (")
