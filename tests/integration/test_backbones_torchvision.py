"""torchvision backbones through TORCH_HOME, a checkpoint and at random; no network anywhere."""

from pathlib import Path

import pytest
import torch
import torchvision.models
from torch import nn

from bench.backbones import torchvision as source_module
from bench.backbones.torchvision import TorchvisionSource
from bench.backbones.weights import seeded
from bench.errors import BackboneError, WeightsMismatchError, WeightsMissingError
from bench.spec import BackboneSpec

SOURCE = TorchvisionSource()
RESNET18 = BackboneSpec(name="torchvision/resnet18@IMAGENET1K_V1")
FILE = "resnet18-f37072fd.pth"


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)


def make(name: str, **options: object) -> nn.Module:
    with seeded(7):
        return torchvision.models.get_model(name, weights=None, **options)


def put(tmp_path: Path, filename: str, state: dict[str, torch.Tensor]) -> Path:
    path = tmp_path / "hub" / "checkpoints" / filename
    torch.save(state, path)
    return path


def test_weights_under_torch_home_load_and_are_not_called_the_published_ones(
    tmp_path: Path,
) -> None:
    model = make("resnet18").eval()
    path = put(tmp_path, FILE, model.state_dict())
    assert SOURCE.locate(RESNET18).files == (path,)
    backbone = SOURCE.load(RESNET18, image_size=64, seed=0)
    source = backbone.info.weights_source
    assert source.startswith(f"torchvision resnet18@IMAGENET1K_V1: {FILE}, NOT the published file")
    seen = []
    model.fc.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        model(images)
        assert torch.equal(backbone.module(images), seen[0])
    assert backbone.info.feature_dim == 512
    assert backbone.info == SOURCE.load(RESNET18, image_size=64, seed=1).info


def test_preprocessing_is_that_of_the_weights(tmp_path: Path) -> None:
    put(tmp_path, FILE, make("resnet18").state_dict())
    own = SOURCE.load(RESNET18, image_size=None, seed=0).preprocessing
    assert (own.image_size, own.interpolation) == (224, "bilinear")
    assert own.crop_fraction == pytest.approx(224 / 256)
    assert own.mean == (0.485, 0.456, 0.406)
    explicit = SOURCE.load(RESNET18, image_size=96, seed=0).preprocessing
    assert (explicit.image_size, explicit.crop_fraction) == (96, 1.0)


@pytest.mark.parametrize("name", ["torchvision/resnet18", "torchvision/resnet18@DEFAULT"])
def test_no_weights_named_means_the_default_ones(tmp_path: Path, name: str) -> None:
    path = put(tmp_path, FILE, make("resnet18").state_dict())
    assert SOURCE.locate(BackboneSpec(name=name)).files == (path,)


def test_missing_weights_say_what_to_download_and_where_to(tmp_path: Path) -> None:
    (missing,) = SOURCE.locate(RESNET18).missing
    assert missing.what == "weights of torchvision/resnet18@IMAGENET1K_V1"
    assert f"https://download.pytorch.org/models/{FILE} to {tmp_path}" in missing.how
    assert missing.num_bytes == pytest.approx(44.661 * 2**20, abs=1)
    assert not missing.downloadable
    with pytest.raises(WeightsMissingError) as caught:
        SOURCE.load(RESNET18, image_size=64, seed=0)
    assert missing.how in str(caught.value)


def test_incomplete_weights_are_refused(tmp_path: Path) -> None:
    state = make("resnet18").state_dict()
    del state["layer4.1.bn2.bias"]
    put(tmp_path, FILE, state)
    with pytest.raises(WeightsMismatchError, match=r"1 missing: layer4.1.bn2.bias"):
        SOURCE.load(RESNET18, image_size=64, seed=0)


def test_a_checkpoint_may_have_another_classifier_and_nothing_else(tmp_path: Path) -> None:
    state = make("resnet18", num_classes=5).state_dict()
    torch.save({"model": state}, tmp_path / "x.pth")
    spec = BackboneSpec(name="torchvision/resnet18", checkpoint=str(tmp_path / "x.pth"))
    assert SOURCE.locate(spec).files == (tmp_path / "x.pth",)
    backbone = SOURCE.load(spec, image_size=64, seed=0)
    assert torch.equal(backbone.module.state_dict()["conv1.weight"], state["conv1.weight"])
    assert backbone.info.weights_source == f"file {tmp_path / 'x.pth'}"
    torch.save(state | {"extra": torch.ones(1)}, tmp_path / "x.pth")
    with pytest.raises(WeightsMismatchError, match="1 unexpected: extra"):
        SOURCE.load(spec, image_size=64, seed=0)


def test_the_positions_of_a_vit_are_resampled_to_the_size_asked(tmp_path: Path) -> None:
    state = make("vit_b_32").state_dict()
    torch.save(state, tmp_path / "vit.pth")
    spec = BackboneSpec(name="torchvision/vit_b_32", checkpoint=str(tmp_path / "vit.pth"))
    backbone = SOURCE.load(spec, image_size=64, seed=0)
    assert backbone.module.encoder.pos_embedding.shape == (1, 5, 768)
    assert backbone.stages[0].parameters == ("class_token", "encoder.pos_embedding")
    loaded = backbone.module.encoder.pos_embedding[:, :1]
    assert torch.equal(loaded, state["encoder.pos_embedding"][:, :1])


@pytest.mark.parametrize(
    ("name", "dim"),
    [
        ("regnet_x_400mf", 400),
        ("mobilenet_v3_small", 1024),
        ("mnasnet0_5", 1280),
        ("shufflenet_v2_x0_5", 1024),
        ("googlenet", 1024),
    ],
)
def test_features_are_what_the_last_linear_layer_would_read(name: str, dim: int) -> None:
    spec = BackboneSpec(name=f"torchvision/{name}", weights="random")
    backbone = SOURCE.load(spec, image_size=64, seed=0)
    assert backbone.info.feature_dim == dim
    assert not [path for path, _ in backbone.module.named_parameters() if path.startswith("aux")]
    assert backbone.module.train()(torch.randn(2, 3, 64, 64)).shape == (2, dim)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dim"),
    [
        ("densenet121", 1024),
        ("efficientnet_b0", 1280),
        ("convnext_tiny", 768),
        ("swin_t", 768),
        ("alexnet", 4096),
    ],
)
def test_features_of_larger_models_too(name: str, dim: int) -> None:
    spec = BackboneSpec(name=f"torchvision/{name}", weights="random")
    assert SOURCE.load(spec, image_size=64, seed=0).info.feature_dim == dim


def test_a_size_that_a_model_cannot_take_is_told() -> None:
    spec = BackboneSpec(name="torchvision/maxvit_t", weights="random")
    with pytest.raises(BackboneError, match="torchvision cannot build it at 64 pixels: Input size"):
        SOURCE.load(spec, image_size=64, seed=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "torchvision/resnet5O"}, "Did you mean 'torchvision/resnet5"),
        ({"name": "torchvision/resnet18@V9"}, "unknown backbone 'torchvision/resnet18@V9'"),
        ({"name": "torchvision/squeezenet1_0"}, "has no linear classifier whose input could be"),
        ({"name": "torchvision/resnet18", "revision": "x"}, "have no revisions: drop revision"),
        (
            {"name": "torchvision/resnet18", "checkpoint": "/no/x"},
            "checkpoint /no/x does not exist",
        ),
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


def test_a_model_that_does_not_end_in_a_classifier_is_refused() -> None:
    with pytest.raises(BackboneError, match="x: does not end in a linear classifier"):
        source_module._drop_classifier(make("squeezenet1_1"), "x")


def test_names_are_listed_with_their_weights() -> None:
    assert "torchvision/resnet50@IMAGENET1K_V2" in SOURCE.names()
    assert list(SOURCE.names()) == sorted(SOURCE.names())
