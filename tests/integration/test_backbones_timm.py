"""timm backbones from a hub cache, a folder, a checkpoint and at random; no network anywhere."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from bench.backbones import timm as source_module
from bench.backbones.timm import TimmSource
from bench.backbones.weights import seeded, weights_digest
from bench.errors import BackboneError, WeightsMismatchError, WeightsMissingError
from bench.spec import BackboneSpec

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SOURCE = TimmSource()


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def make_state(arch: str, **options: object) -> dict[str, torch.Tensor]:
    with seeded(7):
        model = timm.create_model(arch, **options)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def put_in_hub_cache(
    tmp_path: Path, name: str, state: dict[str, torch.Tensor], *, revision: str = "main"
) -> Path:
    folder = tmp_path / "hub" / f"models--timm--{name}"
    snapshot = folder / "snapshots" / COMMIT
    for path in (folder / "blobs", folder / "refs", snapshot):
        path.mkdir(parents=True)
    save_file(state, folder / "blobs" / "0a0a")
    (snapshot / "model.safetensors").symlink_to("../../blobs/0a0a")
    (folder / "refs" / revision).write_text(COMMIT)
    return snapshot / "model.safetensors"


def test_a_model_loads_completely_from_the_hub_cache_offline(tmp_path: Path) -> None:
    spec = BackboneSpec(name="timm/test_vit.r160_in1k")
    file = put_in_hub_cache(tmp_path, "test_vit.r160_in1k", make_state("test_vit"))
    assert SOURCE.locate(spec).files == (file,)
    backbone = SOURCE.load(spec, image_size=None, seed=0)
    assert backbone.info.weights_source == f"hub timm/test_vit.r160_in1k@{COMMIT}"
    assert backbone.info.licence == "apache-2.0"
    assert (backbone.info.feature_dim, backbone.preprocessing.image_size) == (64, 160)
    assert backbone.preprocessing.crop_fraction == 0.95
    images = torch.randn(2, 3, 160, 160)
    with seeded(7):
        reference = timm.create_model("test_vit").eval()
    with torch.inference_mode():
        expected = reference.forward_head(reference.forward_features(images), pre_logits=True)
        torch.testing.assert_close(backbone.module(images), expected)
    again = SOURCE.load(spec, image_size=None, seed=1)
    assert again.info == backbone.info


def test_a_bare_architecture_is_its_default_tag(tmp_path: Path) -> None:
    put_in_hub_cache(tmp_path, "test_resnet.r160_in1k", make_state("test_resnet"))
    backbone = SOURCE.load(BackboneSpec(name="timm/test_resnet"), image_size=64, seed=0)
    assert backbone.info.weights_source == f"hub timm/test_resnet.r160_in1k@{COMMIT}"


def test_a_vit_is_built_for_the_size_asked_and_its_positions_are_resampled(tmp_path: Path) -> None:
    put_in_hub_cache(tmp_path, "test_vit.r160_in1k", make_state("test_vit"))
    spec = BackboneSpec(name="timm/test_vit.r160_in1k")
    backbone = SOURCE.load(spec, image_size=64, seed=0)
    assert backbone.preprocessing.image_size == 64
    assert backbone.module.pos_embed.shape[1] == (64 // 16) ** 2 + 1
    assert backbone.module(torch.randn(2, 3, 64, 64)).shape == (2, 64)


def test_a_revision_is_followed(tmp_path: Path) -> None:
    put_in_hub_cache(tmp_path, "test_vit.r160_in1k", make_state("test_vit"), revision="v2")
    spec = BackboneSpec(name="timm/test_vit.r160_in1k", revision="v2")
    assert SOURCE.locate(spec).files
    assert SOURCE.load(spec, image_size=64, seed=0).info.weights_source.endswith(COMMIT)
    assert SOURCE.locate(spec.model_copy(update={"revision": None})).missing


def test_missing_weights_say_what_to_download() -> None:
    spec = BackboneSpec(name="timm/resnet50.a1_in1k")
    (missing,) = SOURCE.locate(spec).missing
    assert missing.what == "weights of timm/resnet50.a1_in1k"
    assert "run `hf download timm/resnet50.a1_in1k model.safetensors`" in missing.how
    assert not missing.downloadable
    with pytest.raises(WeightsMissingError) as caught:
        SOURCE.load(spec, image_size=64, seed=0)
    assert missing.how in str(caught.value)


def test_weights_outside_the_hub_are_looked_for_under_torch_home(tmp_path: Path) -> None:
    spec = BackboneSpec(name="timm/gcvit_xxtiny.in1k")
    (missing,) = SOURCE.locate(spec).missing
    path = tmp_path / "torch" / "hub" / "checkpoints" / missing.how.split()[1].rpartition("/")[2]
    assert str(path) in missing.how
    path.parent.mkdir(parents=True)
    torch.save(make_state("gcvit_xxtiny"), path)
    assert SOURCE.locate(spec).files == (path,)
    backbone = SOURCE.load(spec, image_size=None, seed=0)
    assert "NOT the published file" in backbone.info.weights_source


@pytest.mark.parametrize("arch", ["test_resnet.r160_in1k", "dla46_c.in1k"])
def test_hub_weights_with_a_tensor_missing_are_refused(tmp_path: Path, arch: str) -> None:
    """DLA is one of those that timm itself loads leniently."""
    state = make_state(arch)
    lost = next(name for name in state if name.endswith("bn1.bias"))
    del state[lost]
    put_in_hub_cache(tmp_path, arch, state)
    with pytest.raises(WeightsMismatchError, match=f"1 missing: {lost}"):
        SOURCE.load(BackboneSpec(name=f"timm/{arch}"), image_size=64, seed=0)


def test_a_checkpoint_may_lack_its_classifier_or_have_another(tmp_path: Path) -> None:
    state = make_state("test_efficientnet")
    bare = {name: value for name, value in state.items() if not name.startswith("classifier.")}
    save_file(bare, tmp_path / "bare.safetensors")
    width = state["classifier.weight"].shape[1]
    seven = {"classifier.weight": torch.zeros(7, width), "classifier.bias": torch.zeros(7)}
    torch.save({"state_dict": bare | seven}, tmp_path / "7.pth")
    digests = set()
    for name in ("bare.safetensors", "7.pth"):
        spec = BackboneSpec(name="timm/test_efficientnet", checkpoint=str(tmp_path / name))
        assert SOURCE.locate(spec).files == (tmp_path / name,)
        backbone = SOURCE.load(spec, image_size=64, seed=0)
        assert backbone.info.weights_source == f"file {tmp_path / name}"
        assert "state_dict" not in backbone.module.pretrained_cfg
        loaded = backbone.module.state_dict()
        assert torch.equal(loaded["conv_stem.weight"], state["conv_stem.weight"])
        digests.add(backbone.info.weights_digest)
    assert len(digests) == 1


def test_a_checkpoint_is_otherwise_complete_or_refused(tmp_path: Path) -> None:
    state = make_state("test_efficientnet")
    state["conv_head.weight"] = state["conv_head.weight"][:-1].clone()
    state["decoder.weight"] = state.pop("bn2.weight")
    save_file(state, tmp_path / "x.safetensors")
    spec = BackboneSpec(name="timm/test_efficientnet", checkpoint=str(tmp_path / "x.safetensors"))
    with pytest.raises(WeightsMismatchError) as caught:
        SOURCE.load(spec, image_size=64, seed=0)
    message = str(caught.value)
    assert "1 missing: bn2.weight; 1 unexpected: decoder.weight; " in message
    assert "1 of the wrong shape: conv_head.weight (" in message


def test_a_local_folder_brings_architecture_and_statistics(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    config = {"input_size": [3, 96, 96], "mean": [0.1] * 3, "std": [0.2] * 3, "num_classes": 5}
    config |= {"fixed_input_size": True, "classifier": "head", "first_conv": "patch_embed.proj"}
    (folder / "config.json").write_text(
        json.dumps({"architecture": "test_vit", "num_classes": 5, "pretrained_cfg": config})
    )
    spec = BackboneSpec(name=f"timm/local-dir:{folder}")
    with pytest.raises(BackboneError, match=r"no weights in .*mine; it should hold one of model"):
        SOURCE.load(spec, image_size=None, seed=0)
    state = make_state("test_vit", num_classes=5, img_size=96)
    save_file(state, folder / "model.safetensors")
    assert SOURCE.locate(spec).files == (folder / "config.json", folder / "model.safetensors")
    backbone = SOURCE.load(spec, image_size=None, seed=0)
    assert backbone.preprocessing.image_size == 96
    assert backbone.preprocessing.mean == (0.1,) * 3
    assert torch.equal(backbone.module.cls_token, state["cls_token"])
    assert SOURCE.load(spec, image_size=64, seed=0).preprocessing.image_size == 64
    random = SOURCE.load(spec.model_copy(update={"weights": "random"}), image_size=64, seed=3)
    assert random.info.weights_source == "random (seed 3)"


def test_arguments_of_a_folder_that_no_module_shows_change_its_digest(tmp_path: Path) -> None:
    save_file(make_state("test_vit", num_classes=5), tmp_path / "model.safetensors")
    pretrained = {
        "num_classes": 5,
        "input_size": [3, 160, 160],
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    digests = set()
    for arguments in ({}, {"num_heads": 4}, {"num_heads": 8}):
        config = {"architecture": "test_vit", "model_args": arguments, "pretrained_cfg": pretrained}
        (tmp_path / "config.json").write_text(json.dumps(config))
        spec = BackboneSpec(name=f"timm/local-dir:{tmp_path}")
        backbone = SOURCE.load(spec, image_size=None, seed=0)
        digests.add(backbone.info.weights_digest)
        plain = weights_digest(backbone.module, architecture=spec.name)
        assert (backbone.info.weights_digest == plain) == (not arguments)
    assert len(digests) == 3


def test_a_folder_that_timm_cannot_build_is_told(tmp_path: Path) -> None:
    config = {"architecture": "test_vit", "model_args": {"nonsense": 1}, "pretrained_cfg": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    spec = BackboneSpec(name=f"timm/local-dir:{tmp_path}", weights="random")
    with pytest.raises(BackboneError, match=r"timm cannot build it at 64 pixels: TypeError: .*non"):
        SOURCE.load(spec, image_size=64, seed=0)


def test_attention_pooling_is_loaded_and_loads_twice_the_same(tmp_path: Path) -> None:
    """Some timm versions put an unloaded projection there when built without a classifier."""
    put_in_hub_cache(tmp_path, "test_vit3.r160_in1k", make_state("test_vit3"))
    spec = BackboneSpec(name="timm/test_vit3.r160_in1k")
    first, second = (SOURCE.load(spec, image_size=64, seed=seed) for seed in (0, 1))
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(first.module(images), second.module(images))
    assert "attn_pool" in first.stages[-1].modules


@pytest.mark.slow
def test_the_clip_resnet_pools_through_loaded_weights_only() -> None:
    spec = BackboneSpec(name="timm/resnet50_clip", weights="random")
    backbone = SOURCE.load(spec, image_size=64, seed=0)
    assert isinstance(backbone.module.head.proj, nn.Identity)
    assert backbone.info.feature_dim == 2048


@pytest.mark.parametrize(
    "arch", ["test_resnet", "test_convnext", "test_vit2", "test_maxvit", "mobilenetv3_small_050"]
)
def test_random_weights_come_from_the_seed_and_features_fit(arch: str) -> None:
    spec = BackboneSpec(name=f"timm/{arch}", weights="random")
    first, second, other = (SOURCE.load(spec, image_size=64, seed=seed) for seed in (0, 0, 1))
    assert first.info.weights_digest == second.info.weights_digest != other.info.weights_digest
    assert first.info.weights_source == "random (seed 0)"
    features = first.module(torch.randn(3, 3, 64, 64))
    assert features.shape == (3, first.info.feature_dim)
    assert SOURCE.locate(spec).files == ()


def test_a_size_that_an_architecture_cannot_take_is_told() -> None:
    spec = BackboneSpec(name="timm/test_vit", weights="random")
    with pytest.raises(BackboneError, match=r"test_vit: does not run on .* 10 x 10 .*divisible"):
        SOURCE.load(spec, image_size=10, seed=0)
    spec = BackboneSpec(name="timm/inception_v4", weights="random")
    with pytest.raises(BackboneError, match="does not run on images of 32 x 32 pixels"):
        SOURCE.load(spec, image_size=32, seed=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "timm/resnet5O"}, "unknown backbone 'timm/resnet5O'. Did you mean 'timm/resnet"),
        ({"name": "timm/resnet50.a9_in1k"}, "bench list backbones 'timm/*'"),
        ({"name": "timm/test_vit4"}, "no pretrained weights for 'timm/test_vit4': give checkpoint"),
        ({"name": "timm/gcvit_xxtiny", "revision": "x"}, "a plain download without revisions"),
        ({"name": "timm/resnet18", "checkpoint": "/no/x.pth"}, "checkpoint /no/x.pth does not ex"),
        ({"name": "timm/resnet18", "weights": "random", "revision": "x"}, "weights: random exclu"),
        ({"name": "timm/resnet18", "checkpoint": "x", "revision": "x"}, "has no revision: drop"),
        ({"name": "timm/local-dir:/no"}, "there is no /no/config.json"),
        ({"name": "timm/local-dir:/no", "revision": "x"}, "has its weights in its folder: drop"),
    ],
)
def test_a_wrong_spec_is_refused_before_and_at_loading(
    fields: dict[str, str], message: str
) -> None:
    spec = BackboneSpec.model_validate(fields)
    assert message in (SOURCE.check(spec) or "")
    with pytest.raises(BackboneError) as caught:
        SOURCE.load(spec, image_size=64, seed=0)
    assert message in str(caught.value)


def test_right_specs_pass(tmp_path: Path) -> None:
    (tmp_path / "x.pth").touch()
    for fields in (
        {"name": "timm/resnet50.a1_in1k", "revision": "main"},
        {"name": "timm/resnet50"},
        {"name": "timm/test_vit4", "weights": "random"},
        {"name": "timm/test_vit4", "checkpoint": str(tmp_path / "x.pth")},
    ):
        assert SOURCE.check(BackboneSpec.model_validate(fields)) is None


def test_names_are_listed_with_their_tags() -> None:
    names = SOURCE.names()
    assert "timm/resnet50.a1_in1k" in names
    assert list(names) == sorted(names)


class FreshHead(nn.Module):
    """Puts a new layer in the classifier's place."""

    num_classes = 3

    def reset_classifier(self, num_classes: int) -> None:
        self.head = nn.Linear(2, 2)


def test_a_head_that_no_weights_cover_is_refused() -> None:
    with pytest.raises(BackboneError, match=r"never loaded: head.weight, head.bias"):
        source_module._drop_classifier(FreshHead(), "x")


def test_a_build_that_loaded_nothing_is_refused() -> None:
    with pytest.raises(BackboneError, match="x: timm built the model without loading its weights"):
        source_module._check_loaded([], "x")


def test_inputs_that_are_no_square_colour_images_are_refused() -> None:
    config = {"input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    with pytest.raises(BackboneError, match="x: takes inputs of 1 x 64 x 64; only square RGB"):
        source_module._preprocessing(config | {"input_size": (1, 64, 64)}, "x")
    with pytest.raises(BackboneError, match=r"x: resizes by 'magic'. Known: nearest, bilinear"):
        source_module._preprocessing(config | {"interpolation": "magic"}, "x")
