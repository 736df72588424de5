"""Image processors of transformers beside the preprocessing that stands for them; no network."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from bench.backbones.hf import HubSource
from bench.backbones.hub_images import image_inputs
from bench.errors import BackboneError
from bench.pixels import decode_image
from bench.spec import BackboneSpec

SPEC = BackboneSpec(name="hf/me/tiny")
KNOWN = {
    "vit": transformers.ViTImageProcessor(),
    "deit": transformers.DeiTImageProcessor(),
    "beit": transformers.BeitImageProcessor(),
    "convnext": transformers.ConvNextImageProcessor(size={"shortest_edge": 224}),
    "convnext at 384": transformers.ConvNextImageProcessor(),
    "convnext, side rounded down": transformers.ConvNextImageProcessor(size={"shortest_edge": 32}),
    "swin": transformers.ViTImageProcessor(resample=3, image_mean=[0.485, 0.456, 0.406]),
    "resnet": transformers.ConvNextImageProcessor(size={"shortest_edge": 224}, resample=2),
    "dinov2": transformers.BitImageProcessor(
        size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}, resample=3
    ),
    "clip": transformers.CLIPImageProcessor(),
    "siglip": transformers.SiglipImageProcessor(),
    "mobilenet": transformers.MobileNetV2ImageProcessor(),
    "poolformer": transformers.PoolFormerImageProcessor(),
    "poolformer, an odd margin": transformers.PoolFormerImageProcessor(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}
    ),
    "lanczos": transformers.ViTImageProcessor(resample=1),
    "nearest": transformers.ViTImageProcessor(resample=0),
    "levit": transformers.LevitImageProcessor(),
    "efficientnet": transformers.EfficientNetImageProcessor(),
    "efficientnet, normalised once": transformers.EfficientNetImageProcessor(include_top=False),
    "mobilevit": transformers.MobileViTImageProcessor(size={"shortest_edge": 288}),
}


def save(folder: Path, processor: Any) -> Path:
    processor.save_pretrained(folder)
    return folder


def photo(side: int) -> Image.Image:
    spots = np.random.default_rng(3).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(spots).resize((side, side), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("kind", KNOWN)
def test_a_model_sees_what_its_own_processor_would_show_it(tmp_path: Path, kind: str) -> None:
    processor = KNOWN[kind]
    inputs = image_inputs(SPEC, save(tmp_path, processor), None)
    how = inputs.preprocessing
    image = photo(400)
    expected = processor(images=image, return_tensors="np")["pixel_values"][0]
    pixels = (decode_image(image, how) / 255 - np.array(how.mean)) / np.array(how.std)
    ours = pixels[:, :, ::-1] if inputs.reverses_channels else pixels
    one_pixel = np.abs(expected[:, 1:, 1:] - expected[:, :-1, :-1]).mean()
    difference = np.abs(ours.transpose(2, 0, 1) - expected).mean()
    assert difference < 0.03 * expected.std() + one_pixel
    assert inputs.reverses_channels == (kind == "mobilevit")


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (
            transformers.ViTImageProcessor(rescale_factor=1 / 127.5),
            r"its ViTImageProcessor does more .* differ by 1\.\d\d standard deviations. Give mean,",
        ),
        (
            transformers.EfficientNetImageProcessor(rescale_offset=True, rescale_factor=1 / 127.5),
            r"its EfficientNetImageProcessor does more to an image than to resize, crop, scale",
        ),
        (
            transformers.PerceiverImageProcessor(),
            r"makes \(1, 3, 224, 224\) of one image, not \(1, 3, 256, 256\). Give mean, std and",
        ),
        (
            transformers.ImageGPTImageProcessor(size={"height": 32, "width": 32}),
            r"its ImageGPTImageProcessor does not run on one image: ValueError: Clusters .* Give",
        ),
        (
            transformers.MobileViTImageProcessor(size={"shortest_edge": 224}),
            "its MobileViTImageProcessor does more",
        ),
        (transformers.ViTImageProcessor(resample=4), r"by Pillow's method 4, .* 0 \(nearest\), 1"),
    ],
    ids=["scale", "offset", "shape", "fails", "pads", "box"],
)
def test_a_processor_that_does_something_else_is_refused(
    tmp_path: Path, processor: Any, message: str
) -> None:
    with pytest.raises(BackboneError, match=message):
        image_inputs(SPEC, save(tmp_path, processor), None)


def test_a_suite_that_says_it_all_goes_without_the_trial(tmp_path: Path) -> None:
    folder = save(tmp_path, transformers.ViTImageProcessor(rescale_factor=1 / 127.5))
    with pytest.raises(BackboneError):
        image_inputs(SPEC.model_copy(update={"mean": 0.5, "std": 0.5}), folder, None)
    spec = BackboneSpec(name="hf/me/tiny", mean=0.5, std=0.5)
    assert image_inputs(spec, folder, 64).preprocessing.image_size == 224


def test_a_model_of_blue_green_red_gets_its_channels_in_that_order(tmp_path: Path) -> None:
    transformers.utils.logging.disable_progress_bar()
    config = transformers.MobileViTConfig(
        image_size=64,
        hidden_sizes=[16, 16, 16],
        neck_hidden_sizes=[8, 8, 8, 8, 8, 8, 16],
        num_attention_heads=2,
    )
    model = transformers.MobileViTModel(config).eval()
    model.save_pretrained(tmp_path)
    sizes = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
    processor = transformers.MobileViTImageProcessor(**sizes)
    processor.save_pretrained(tmp_path)
    spec = BackboneSpec(name=f"hf/{tmp_path}")
    backbone = HubSource().load(spec, image_size=None, seed=0)
    image = photo(64)
    shown = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        expected = model(**processor(images=image, return_tensors="pt")).pooler_output
        torch.testing.assert_close(backbone.module(shown), expected, rtol=1e-4, atol=1e-4)
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    settings["do_flip_channel_order"] = False
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    other = HubSource().load(spec, image_size=None, seed=0)
    assert other.info.weights_digest != backbone.info.weights_digest
