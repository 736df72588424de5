"""A hub folder's image processor -> the preprocessing that does the same; knows no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from bench.backbones.assemble import TRIAL_FAILURES
from bench.backbones.hub_kind import PROCESSOR, processor_files
from bench.errors import BackboneError
from bench.pixels import decode_image
from bench.record import Preprocessing
from bench.spec import BackboneSpec

_RESAMPLE: Mapping[int, Literal["nearest", "lanczos", "bilinear", "bicubic"]] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
}
_NOISE = 0.03
"""Of resampling by another library, in standard deviations."""
_TRIAL_SEED = 0
_TRIAL_SPOTS = 6
_TRIAL_SCALE = 1.5
_AS_GIVEN = Preprocessing(image_size=1, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


@dataclass(frozen=True)
class ImageInputs:
    """How an image becomes the input of a model.

    Attributes:
        reverses_channels: The model takes blue, green, red.
    """

    preprocessing: Preprocessing
    reverses_channels: bool = False


def image_inputs(spec: BackboneSpec, folder: Path, image_size: int | None) -> ImageInputs:
    """Return what the model's image processor would do, after a trial beside it.

    Args:
        spec: With mean, std and an image size it says all, and nothing is tried.
        folder: Holds the processor's configuration.
        image_size: In pixels; None is the processor's.

    Raises:
        BackboneError: There is no processor, or it does what is not known here, and the suite does
            not say it all.
    """
    says_all = None not in (spec.mean, spec.std, image_size)
    if not processor_files(folder):
        if image_size is None or not says_all:
            raise BackboneError(
                f"{spec.name}: {folder} holds no {PROCESSOR}: give mean, std and image_size. If "
                "its repository has one, `bench fetch` brings it."
            )
        return ImageInputs(_AS_GIVEN.model_copy(update={"image_size": image_size}))
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(
        folder, local_files_only=True, trust_remote_code=spec.trust_remote_code
    )
    inputs = ImageInputs(
        _read_preprocessing(processor, name=spec.name),
        reverses_channels=bool(getattr(processor, "do_flip_channel_order", False)),
    )
    if not says_all:
        _compare(processor, inputs, name=spec.name)
    return inputs


def _read_preprocessing(processor: Any, *, name: str) -> Preprocessing:
    resized = _length(processor.size)
    cropped = _length(processor.crop_size) if getattr(processor, "do_center_crop", False) else None
    own = cropped or resized
    if own is None:
        raise BackboneError(f"{name}: its image processor states no size ({processor.size}).")
    method = 2 if processor.resample is None else int(processor.resample)
    if method not in _RESAMPLE:
        raise BackboneError(
            f"{name}: its image processor resamples by Pillow's method {method}, which is not known"
            f" here. Known: {', '.join(f'{key} ({how})' for key, how in _RESAMPLE.items())}."
        )
    mean, std = _normalisation(processor)
    return Preprocessing(
        image_size=own,
        mean=mean,
        std=std,
        interpolation=_RESAMPLE[method],
        crop_fraction=_crop_fraction(processor, own, resized),
    )


def _crop_fraction(processor: Any, own: int, resized: int | None) -> float:
    """Return which part of the shorter side is kept, as each kind of processor computes it."""
    crop = getattr(processor, "crop_pct", None)
    if crop and own < 384:
        # ConvNeXt's: below 384 pixels it resizes to size / crop_pct, rounded down, then crops.
        shorter = int(own / crop)
        return float(crop) if shorter == round(own / crop) else own / shorter
    if resized and type(processor).__name__.startswith("LevitImage"):
        return own / int(256 / 224 * resized)
    return min(1.0, own / resized) if resized else 1.0


def _normalisation(processor: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if not getattr(processor, "do_normalize", True):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean, std = tuple(processor.image_mean), tuple(processor.image_std)
    # EfficientNet's divides by the deviation once more.
    twice = getattr(processor, "include_top", False)
    return mean, tuple(value**2 for value in std) if twice else std


def _compare(processor: Any, inputs: ImageInputs, *, name: str) -> None:
    """Take an image through a processor and through what stands for it here.

    The image is square: whether an oblong one is squeezed or cropped is chosen here, for all
    backbones alike. It is smooth, so that libraries which resample differ little on it.

    Raises:
        BackboneError: The processor does not run, or the two differ by more than that.
    """
    image = _trial_image(inputs.preprocessing)
    kind = type(processor).__name__
    instead = "Give mean, std and image_size to go without it."
    try:
        theirs = np.asarray(processor(images=image, return_tensors="np")["pixel_values"])
    except (*TRIAL_FAILURES, KeyError, ImportError) as error:
        raise BackboneError(
            f"{name}: its {kind} does not run on one image: {type(error).__name__}: "
            f"{str(error).rstrip(' .')}. {instead}"
        ) from error
    ours = _prepare(image, inputs)
    if theirs.shape != ours.shape:
        raise BackboneError(
            f"{name}: its {kind} makes {theirs.shape} of one image, not {ours.shape}. {instead}"
        )
    difference = float(np.abs(theirs - ours).mean() / theirs.std())
    # Sides and corners that are rounded the other way move an image by a pixel.
    one_pixel = float(np.abs(ours[..., 1:, 1:] - ours[..., :-1, :-1]).mean() / theirs.std())
    # Written so that a difference which is not a number counts.
    if not difference <= _NOISE + one_pixel:
        raise BackboneError(
            f"{name}: its {kind} does more to an image than to resize, crop, scale and normalise "
            f"it: on a trial image the two differ by {difference:.2f} standard deviations. "
            f"{instead}"
        )


def _trial_image(preprocessing: Preprocessing) -> Image.Image:
    side = round(_TRIAL_SCALE * preprocessing.image_size / preprocessing.crop_fraction)
    shape = (_TRIAL_SPOTS, _TRIAL_SPOTS, 3)
    spots = np.random.default_rng(_TRIAL_SEED).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(spots).resize((side, side), Image.Resampling.BICUBIC)


def _prepare(image: Image.Image, inputs: ImageInputs) -> np.ndarray:
    """Return what a model gets of an image, float, shape (1, 3, S, S)."""
    how = inputs.preprocessing
    pixels: np.ndarray = (decode_image(image, how) / 255 - how.mean) / how.std
    ordered = pixels[:, :, ::-1] if inputs.reverses_channels else pixels
    return ordered.transpose(2, 0, 1)[None]


def _length(size: Any) -> int | None:
    """Return the side in pixels that a processor's size stands for."""
    if isinstance(size, int) or size is None:
        return size
    values: Mapping[str, int | None] = dict(size)
    for key in ("shortest_edge", "height"):
        if values.get(key):
            return values[key]
    return None
