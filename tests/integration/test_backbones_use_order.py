"""Stages go by the order of use where a model defines its modules in another order."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from bench.backbones.hf import HubSource
from bench.backbones.hub_features import make_features
from bench.backbones.stages import hub_stages
from bench.backbones.use_order import UsesRecorder, order_by_use
from bench.interfaces import Stage
from bench.spec import BackboneSpec
from bench.strategies.freeze import Trained, last_stages
from bench.strategies.head import Classifier, make_head
from tests import audio
from tests.texts import load_text_backbone, train_tokenizer

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 66,
}


class Chain(nn.Module):
    """Modules and three layers, defined and run in orders of their own.

    Args:
        defined: Names in the order of definition, ``layers`` among them.
        run: Names in the order of use; layers by number.
    """

    def __init__(self, defined: str, run: str) -> None:
        super().__init__()
        for name in defined.split():
            layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
            self.add_module(name, layers if name == "layers" else nn.LayerNorm(4))
        self._run = run.split()

    def forward(self, inputs: Tensor) -> Tensor:
        for name in self._run:
            path = f"layers.{name}" if name.isdigit() else name
            inputs = self.get_submodule(path)(inputs)
        return inputs


def stages_by_use(model: nn.Module, *inputs: Tensor) -> tuple[Stage, ...]:
    with torch.inference_mode(), UsesRecorder(model) as uses:
        model.eval()(*inputs)
    return order_by_use(model, hub_stages(model), uses.names)


def save_text_model(folder: Path, kind: str, **settings: Any) -> Path:
    """Write a tiny model of a kind with fresh weights, and its tokenizer."""
    transformers.utils.logging.disable_progress_bar()
    tokenizer = train_tokenizer("bert")
    config = getattr(transformers, f"{kind}Config")(vocab_size=len(tokenizer), **settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def modules_of(stages: tuple[Stage, ...]) -> list[tuple[str, ...]]:
    assert not any(stage.parameters for stage in stages)
    return [tuple(path.removeprefix("model.") for path in stage.modules) for stage in stages]


def test_stages_of_a_model_that_runs_as_it_is_defined_stay() -> None:
    model = Chain("first layers last", "first 0 1 2 last")
    with UsesRecorder(model) as uses:
        model(torch.ones(1, 4))
    stages = hub_stages(model)
    assert order_by_use(model, stages, uses.names) is stages
    assert modules_of(stages) == [("first",), ("layers.0",), ("layers.1",), ("layers.2", "last")]


@pytest.mark.parametrize(
    ("defined", "run", "expected"),
    [
        (
            "early layers first",
            "early first 0 1 2",
            [("early", "first"), ("layers.0",), ("layers.1",), ("layers.2",)],
        ),
        (
            "last first layers",
            "first 0 1 2 last",
            [("first",), ("layers.0",), ("layers.1",), ("last", "layers.2")],
        ),
        (
            "between first layers",
            "first 0 between 1 2",
            [("first",), ("between", "layers.0"), ("layers.1",), ("layers.2",)],
        ),
    ],
)
def test_what_is_defined_out_of_order_goes_where_it_is_used(
    defined: str, run: str, expected: list[tuple[str, ...]]
) -> None:
    stages = stages_by_use(Chain(defined, run), torch.ones(1, 4))
    assert modules_of(stages) == expected
    assert [stage.name for stage in stages] == ["stem", *(f"layers.{i}" for i in range(3))]


@pytest.mark.parametrize("run", ["first 2 1 0", "first 0 2 last 1"])
def test_blocks_that_run_in_another_order_are_one_stage(run: str) -> None:
    stages = stages_by_use(Chain("first layers last", run), torch.ones(1, 4))
    assert [stage.name for stage in stages] == ["stem"]


def test_a_parameter_that_is_asked_for_its_type_or_scaled_in_place_is_not_used_yet() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with torch.inference_mode(), UsesRecorder(model) as uses:
        inputs = torch.ones(1, 4, dtype=model[1].weight.dtype, device=model[1].weight.device)
        model[1].weight.size()
        model[1].weight.div_(2)
        model(inputs)
    assert uses.names == ("0.weight", "0.bias", "1.weight", "1.bias")


def test_positions_shared_by_all_layers_of_mpnet_belong_to_the_stem(tmp_path: Path) -> None:
    backbone = load_text_backbone(save_text_model(tmp_path, "MPNet", **SIZES))
    assert modules_of(backbone.stages) == [
        ("embeddings", "encoder.relative_attention_bias"),
        *((f"encoder.layer.{number}",) for number in range(3)),
    ]
    assert backbone.info.stages == tuple(stage.name for stage in backbone.stages)


def test_training_the_last_stage_of_mpnet_leaves_the_first_layer_as_it_was(tmp_path: Path) -> None:
    backbone = load_text_backbone(save_text_model(tmp_path, "MPNet", **SIZES))
    classifier = Classifier(backbone.module, make_head(backbone.info.feature_dim, 2))
    trained = Trained(classifier, last_stages(backbone, 1))
    trained.require_gradients()
    names = {name for name, value in backbone.module.named_parameters() if value.requires_grad}
    assert names and all(name.startswith("model.encoder.layer.2.") for name in names)


def test_what_all_layers_of_deberta_share_is_in_no_later_stage_than_its_use(
    tmp_path: Path,
) -> None:
    settings = {
        "relative_attention": True,
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": "p2c|c2p",
        "conv_kernel_size": 3,
    }
    backbone = load_text_backbone(save_text_model(tmp_path, "DebertaV2", **SIZES, **settings))
    assert modules_of(backbone.stages) == [
        ("embeddings", "encoder.rel_embeddings", "encoder.LayerNorm"),
        ("encoder.layer.0",),
        # The convolution runs between the first layer and the second.
        ("encoder.layer.1", "encoder.conv"),
        ("encoder.layer.2",),
    ]


def test_lists_of_parts_of_layers_are_put_together_by_layer(tmp_path: Path) -> None:
    sizes = {"emb_dim": 32, "n_layers": 3, "n_heads": 2, "max_position_embeddings": 66}
    backbone = load_text_backbone(save_text_model(tmp_path, "Flaubert", **sizes))
    lists = ("attentions", "layer_norm1", "ffns", "layer_norm2")
    for number, modules in enumerate(modules_of(backbone.stages)[2:], start=1):
        assert modules == tuple(f"{name}.{number}" for name in lists)


def test_the_final_norm_of_a_conformer_belongs_to_its_last_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = audio._CONFIGS["wav2vec2"][1]
    kinds = {**audio._CONFIGS, "wav2vec2": ("Wav2Vec2Conformer", settings)}
    monkeypatch.setattr(audio, "_CONFIGS", kinds)
    spec = BackboneSpec(name=f"hf/{audio.save_model(tmp_path, 'wav2vec2')}")
    backbone = HubSource().load(spec, image_size=None, seed=0)
    assert modules_of(backbone.stages)[1:] == [
        ("encoder.layers.0",),
        ("encoder.layer_norm", "encoder.layers.1"),
    ]


def test_patches_of_every_level_of_pvt_belong_to_their_level() -> None:
    config = transformers.PvtConfig(
        image_size=64,
        hidden_sizes=[8, 16, 16, 16],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
    )
    model = make_features(transformers.PvtModel(config), (), name="pvt")
    stages = stages_by_use(model, torch.zeros(1, 3, 64, 64))
    assert modules_of(stages)[:3] == [
        ("encoder.patch_embeddings.0",),
        ("encoder.block.0",),
        ("encoder.patch_embeddings.1", "encoder.block.1"),
    ]
