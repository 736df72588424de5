"""transformers vision models from a hub cache and from folders; no network anywhere."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from bench.backbones.hf import HubSource
from bench.backbones.hub_features import make_features
from bench.errors import BackboneError, WeightsMismatchError, WeightsMissingError
from bench.spec import BackboneSpec
from tests.texts import train_tokenizer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SOURCE = HubSource()
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 50_000,
}
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 32, "width": 32},
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.4, 0.5, 0.6],
    "resample": 3,
    "do_normalize": True,
}


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def save(folder: Path, model: nn.Module, **processor: object) -> Path:
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | processor))
    return folder


def vit_classifier() -> nn.Module:
    return transformers.ViTForImageClassification(transformers.ViTConfig(**TINY)).eval()


def put_in_hub_cache(tmp_path: Path, repo: str, model: nn.Module) -> Path:
    folder = tmp_path / "hub" / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    snapshot = save(folder / "snapshots" / COMMIT, model)
    (snapshot / "README.md").write_text("---\ntags: x\nlicense: mit\n---\n# Card\n")
    return snapshot


def test_a_model_loads_completely_from_the_hub_cache_offline(tmp_path: Path) -> None:
    model = vit_classifier()
    snapshot = put_in_hub_cache(tmp_path, "me/tiny", model)
    spec = BackboneSpec(name="hf/me/tiny")
    assert SOURCE.check(spec) is None
    assert {path.name for path in SOURCE.locate(spec).files} == {
        "config.json",
        "preprocessor_config.json",
        "model.safetensors",
    }
    backbone = SOURCE.load(spec, image_size=None, seed=0)
    assert backbone.info.weights_source == f"hub me/tiny@{snapshot.name}"
    assert backbone.info.licence == "mit"
    assert backbone.preprocessing.model_dump() == {
        "image_size": 32,
        "mean": (0.1, 0.2, 0.3),
        "std": (0.4, 0.5, 0.6),
        "interpolation": "bicubic",
        "crop_fraction": 1.0,
    }
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        features = backbone.module(images)
        torch.testing.assert_close(model.classifier(features), model(images).logits)
    assert SOURCE.load(spec, image_size=None, seed=1).info == backbone.info


def test_another_size_interpolates_positions(tmp_path: Path) -> None:
    folder = save(tmp_path / "x", vit_classifier())
    backbone = SOURCE.load(BackboneSpec(name=f"hf/{folder}"), image_size=48, seed=0)
    assert backbone.preprocessing.image_size == 48
    assert backbone.module(torch.randn(2, 3, 48, 48)).shape == (2, 32)
    assert backbone.info.weights_source == f"folder {folder}"


def test_a_missing_repository_says_what_to_download() -> None:
    spec = BackboneSpec(name="hf/me/absent")
    (missing,) = SOURCE.locate(spec).missing
    assert "run `hf download me/absent`" in missing.how
    with pytest.raises(WeightsMissingError, match="HF_HUB_OFFLINE is set") as caught:
        SOURCE.load(spec, image_size=None, seed=0)
    assert missing.how in str(caught.value)


def test_a_half_downloaded_repository_is_missing(tmp_path: Path) -> None:
    snapshot = put_in_hub_cache(tmp_path, "me/tiny", vit_classifier())
    (snapshot / "model.safetensors").unlink()
    assert SOURCE.locate(BackboneSpec(name="hf/me/tiny")).missing
    index = {"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    (snapshot / "part-1.safetensors").touch()
    assert SOURCE.locate(BackboneSpec(name="hf/me/tiny")).missing
    (snapshot / "part-2.safetensors").touch()
    assert len(SOURCE.locate(BackboneSpec(name="hf/me/tiny")).files) == 5
    random = BackboneSpec(name="hf/me/tiny", weights="random")
    assert len(SOURCE.locate(random).files) == 2


def test_stages_are_embeddings_layers_and_the_final_norm_with_the_last(tmp_path: Path) -> None:
    folder = save(tmp_path / "x", vit_classifier())
    stages = SOURCE.load(BackboneSpec(name=f"hf/{folder}"), image_size=None, seed=0).stages
    assert [stage.name for stage in stages] == ["stem", "model.layers.0", "model.layers.1"]
    assert stages[0].modules == ("model.embeddings",)
    assert stages[-1].modules == ("model.layers.1", "model.layernorm")


def test_the_dense_pooler_that_classifiers_lack_is_not_used(tmp_path: Path) -> None:
    with_pooler = transformers.ViTModel(transformers.ViTConfig(**TINY)).eval()
    folder = save(tmp_path / "x", with_pooler)
    module = SOURCE.load(BackboneSpec(name=f"hf/{folder}"), image_size=None, seed=0).module
    assert not [name for name, _ in module.named_parameters() if "pooler" in name]
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        expected = with_pooler(images).last_hidden_state[:, 0]
        torch.testing.assert_close(module(images), expected)


def test_a_model_of_image_and_text_gives_its_vision_tower(tmp_path: Path) -> None:
    config = transformers.SiglipConfig(text_config=TEXT, vision_config=TINY)
    model = transformers.SiglipModel(config).eval()
    folder = save(tmp_path / "x", model)
    backbone = SOURCE.load(BackboneSpec(name=f"hf/{folder}"), image_size=None, seed=0)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        expected = model.vision_model(images).pooler_output
        torch.testing.assert_close(backbone.module(images), expected)
    assert "model.head" in backbone.stages[-1].modules
    assert not [name for name, _ in backbone.module.named_parameters() if "text" in name]


def test_a_convolutional_model_is_averaged_over_its_map(tmp_path: Path) -> None:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    )
    model = transformers.ResNetForImageClassification(config).eval()
    folder = save(
        tmp_path / "x",
        model,
        image_processor_type="ConvNextImageProcessor",
        size={"shortest_edge": 64},
        crop_pct=0.875,
        do_normalize=False,
    )
    backbone = SOURCE.load(BackboneSpec(name=f"hf/{folder}"), image_size=None, seed=0)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = model.resnet(images).last_hidden_state.mean((2, 3))
        torch.testing.assert_close(backbone.module(images), expected)
    own = backbone.preprocessing
    assert (own.image_size, own.crop_fraction, own.mean, own.std) == (64, 0.875, (0,) * 3, (1,) * 3)


def test_a_centre_crop_gives_size_and_fraction(tmp_path: Path) -> None:
    folder = save(
        tmp_path / "x",
        transformers.Dinov2Model(transformers.Dinov2Config(**TINY)),
        image_processor_type="BitImageProcessor",
        size={"shortest_edge": 40},
        crop_size={"height": 32, "width": 32},
        do_center_crop=True,
    )
    own = SOURCE.load(BackboneSpec(name=f"hf/{folder}"), image_size=None, seed=0).preprocessing
    assert (own.image_size, own.crop_fraction) == (32, 0.8)


def test_tokens_without_a_class_token_are_averaged(tmp_path: Path) -> None:
    model = transformers.IJepaModel(transformers.IJepaConfig(**TINY), add_pooling_layer=False)
    folder = save(tmp_path / "x", model.eval())
    backbone = SOURCE.load(BackboneSpec(name=f"hf/{folder}"), image_size=None, seed=0)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        expected = model(images).last_hidden_state.mean(1)
        torch.testing.assert_close(backbone.module(images), expected)


def test_a_model_that_masks_at_random_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "x", transformers.ViTMAEModel(transformers.ViTMAEConfig(**TINY)))
    with pytest.raises(BackboneError, match="forward pass draws at random"):
        SOURCE.load(BackboneSpec(name=f"hf/{folder}"), image_size=None, seed=0)


def test_incomplete_weights_are_refused(tmp_path: Path) -> None:
    model = vit_classifier()
    state = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if "layernorm.weight" not in name
    }
    folder = tmp_path / "x"
    save(folder, model)
    model.save_pretrained(folder, state_dict=state)
    with pytest.raises(WeightsMismatchError, match=r"1 missing: layernorm.weight"):
        SOURCE.load(BackboneSpec(name=f"hf/{folder}"), image_size=None, seed=0)


def test_tensors_left_over_from_a_base_model_are_refused(tmp_path: Path) -> None:
    model = transformers.ViTModel(transformers.ViTConfig(**TINY))
    state = model.state_dict() | {"adapter.weight": torch.ones(1)}
    folder = save(tmp_path / "x", model)
    model.save_pretrained(folder, state_dict=state)
    with pytest.raises(WeightsMismatchError, match=r"1 unexpected: adapter.weight"):
        SOURCE.load(BackboneSpec(name=f"hf/{folder}"), image_size=None, seed=0)


def test_a_checkpoint_folder_stands_for_the_repository(tmp_path: Path) -> None:
    folder = save(tmp_path / "x", vit_classifier())
    spec = BackboneSpec(name="hf/me/absent", checkpoint=str(folder))
    assert SOURCE.check(spec) is None
    backbone = SOURCE.load(spec, image_size=None, seed=0)
    assert backbone.info.weights_source == f"folder {folder}"
    random = BackboneSpec(name=f"hf/{folder}", weights="random")
    first, second = (SOURCE.load(random, image_size=None, seed=seed) for seed in (0, 1))
    assert first.info.weights_source == "random (seed 0)"
    assert first.info.weights_digest != second.info.weights_digest
    (folder / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match=r"no weights in .*: model.safetensors or pytorch"):
        SOURCE.load(spec, image_size=None, seed=0)


def test_weights_saved_in_half_precision_are_whole_loaded_or_drawn(tmp_path: Path) -> None:
    vision = {**TINY, "model_type": "clip_vision_model"}
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=vision)
    folder = save(tmp_path / "x", transformers.CLIPModel(config).to(torch.bfloat16))
    for weights in ("pretrained", "random"):
        spec = BackboneSpec(name=f"hf/{folder}", weights=weights)
        module = SOURCE.load(spec, image_size=None, seed=0).module
        assert {tensor.dtype for tensor in module.parameters()} == {torch.float32}, weights


def test_a_processor_saved_beside_a_tokenizer_in_one_file_is_found(tmp_path: Path) -> None:
    vision = {**TINY, "model_type": "clip_vision_model"}
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=vision)
    folder = save(tmp_path / "x", transformers.CLIPModel(config))
    (folder / "preprocessor_config.json").unlink()
    train_tokenizer("bert").save_pretrained(folder)
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}
    )
    nested = {"image_processor": processor.to_dict(), "processor_class": "CLIPProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    spec = BackboneSpec(name=f"hf/{folder}")
    assert SOURCE.modality(spec) == "image"
    assert folder / "processor_config.json" in SOURCE.locate(spec).files
    own = SOURCE.load(spec, image_size=None, seed=0).preprocessing
    assert (own.image_size, own.crop_fraction) == (32, 0.8)
    assert own.mean == tuple(processor.image_mean)


def test_without_a_processor_the_suite_must_say_it_all(tmp_path: Path) -> None:
    folder = save(tmp_path / "x", vit_classifier())
    (folder / "preprocessor_config.json").unlink()
    spec = BackboneSpec(name=f"hf/{folder}", mean=0.5, std=0.25)
    with pytest.raises(BackboneError, match="give mean, std and image_size"):
        SOURCE.load(spec, image_size=None, seed=0)
    preprocessing = SOURCE.load(spec, image_size=32, seed=0).preprocessing
    assert (preprocessing.mean, preprocessing.std) == ((0.5,) * 3, (0.25,) * 3)


def test_a_processor_without_a_size_is_told(tmp_path: Path) -> None:
    folder = save(
        tmp_path / "x", vit_classifier(), size={"longest_edge": 32, "shortest_edge": None}
    )
    with pytest.raises(BackboneError, match="its image processor states no size"):
        SOURCE.load(BackboneSpec(name=f"hf/{folder}"), image_size=None, seed=0)


def test_a_text_model_and_a_damaged_folder_are_refused(tmp_path: Path) -> None:
    text = transformers.BertModel(transformers.BertConfig(**TEXT))
    folder = save(tmp_path / "text", text)
    with pytest.raises(BackboneError, match="takes input_ids, not images: it is no vision model"):
        SOURCE.load(BackboneSpec(name=f"hf/{folder}"), image_size=32, seed=0)
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    (damaged / "config.json").write_text('{"model_type": "unheard_of"}')
    with pytest.raises(BackboneError, match=r"transformers cannot load .*damaged: ValueError"):
        SOURCE.load(BackboneSpec(name=f"hf/{damaged}"), image_size=32, seed=0)


def test_a_pooler_deeper_inside_that_did_not_load_is_refused() -> None:
    model = transformers.ViTModel(transformers.ViTConfig(**TINY))
    wrapped = nn.Sequential(model)
    with pytest.raises(BackboneError, match=r"never loaded: 0.pooler.dense.weight"):
        make_features(wrapped, ("0.pooler.dense.weight",), name="x")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "hf/a/b/c"}, "'hf/a/b/c' is no hub repository: write hf/<owner>/<name>"),
        ({"name": "hf//no/where"}, "there is no config.json in /no/where"),
        ({"name": "hf//no/where", "revision": "x"}, "is a folder: drop checkpoint and revision"),
        ({"name": "hf/a/b", "checkpoint": "/no/where"}, "checkpoint /no/where does not exist"),
    ],
)
def test_a_wrong_spec_is_refused_before_and_at_loading(
    fields: dict[str, str], message: str
) -> None:
    spec = BackboneSpec.model_validate(fields)
    assert message in (SOURCE.check(spec) or "")
    with pytest.raises(BackboneError) as caught:
        SOURCE.load(spec, image_size=32, seed=0)
    assert message in str(caught.value)
    assert SOURCE.names() == ()
