"""A module with weights -> a checked `Backbone`; knows no library of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.backbones.configuration import find_configuration
from bench.backbones.use_order import UsesRecorder, order_by_use
from bench.backbones.weights import weights_digest
from bench.errors import BackboneError
from bench.interfaces import (
    TOKEN_PADDING,
    Backbone,
    Clip,
    Modality,
    RawInput,
    RowEncoder,
    Stage,
)
from bench.record import BackboneInfo, InputPreprocessing, Preprocessing
from bench.spec import BackboneSpec

_TRIAL_SEED = 0
TRIAL_TEXTS = ("Short.", "A text with some more words, so that the first one has to be padded.")
_TRIAL_SECONDS, _TRIAL_RATE = (0.4, 0.9), 16_000
_TOLERANCE = 1e-4
TRIAL_FAILURES = (RuntimeError, ValueError, AssertionError, TypeError, IndexError)
"""What comes of a model that does not run on a trial."""


@dataclass(frozen=True)
class Parts:
    """What a source knows of a loaded module.

    Attributes:
        own: Preprocessing as the weights want it.
        stages: In the order of definition; where the order of use differs, that one counts.
        source: Where the weights came from, for people.
        declared_dim: Feature width that the library states, where it states one.
        modality: What the module takes.
        encoder: How texts or clips become its inputs.
        configuration: Settings outside the module that decide what it computes; None takes those
            of the module's own ``config``, if it has one.
    """

    module: nn.Module
    own: InputPreprocessing
    stages: tuple[Stage, ...]
    source: str
    licence: str | None = None
    declared_dim: int | None = None
    trainable: bool = True
    modality: Modality = "image"
    encoder: RowEncoder | None = None
    configuration: Mapping[str, Any] | None = None


def assemble(spec: BackboneSpec, parts: Parts, *, image_size: int | None) -> Backbone:
    """Return the backbone in eval mode, after a trial on two examples.

    Args:
        spec: Its mean and standard deviation win over the weights' own.
        parts: The loaded module and what is known of it.
        image_size: Height and width in pixels; None is the backbone's own. For images.

    Raises:
        BackboneError: It does not run at that size, or its features are not a finite, repeatable
            matrix of the declared width.
    """
    module = parts.module.eval()
    preprocessing = parts.own
    if isinstance(preprocessing, Preprocessing):
        preprocessing = resolve_preprocessing(spec, preprocessing, image_size)
    with UsesRecorder(module) as uses:
        feature_dim = _try(module, parts, preprocessing, name=spec.name)
    if parts.declared_dim not in (None, feature_dim):
        raise BackboneError(
            f"{spec.name}: its features are {feature_dim} wide, but the library declares "
            f"{parts.declared_dim}."
        )
    stages = order_by_use(module, parts.stages, uses.names) if parts.trainable else parts.stages
    configuration = dict(parts.configuration or find_configuration(module) or {})
    if stages != parts.stages:
        # They were others before stages went by use, and what was trained by them is not this.
        configuration["stages"] = "by use"
    digest = weights_digest(
        module, architecture=spec.name.partition("@")[0], configuration=configuration
    )
    info = BackboneInfo(
        name=spec.name,
        weights_digest=digest,
        weights_source=parts.source,
        feature_dim=feature_dim,
        num_parameters=sum(parameter.numel() for parameter in module.parameters()),
        stages=tuple(stage.name for stage in stages),
        licence=parts.licence,
    )
    return Backbone(
        module=module,
        info=info,
        preprocessing=preprocessing,
        stages=stages,
        trainable=parts.trainable,
        modality=parts.modality,
        encoder=parts.encoder,
    )


def _try(module: nn.Module, parts: Parts, preprocessing: InputPreprocessing, *, name: str) -> int:
    """Return the width of the features of two examples."""
    if isinstance(preprocessing, Preprocessing):
        return measure_feature_dim(module, preprocessing.image_size, name=name)
    assert parts.encoder is not None, "what takes rows says how they are made"
    examples = _trial_examples(parts.modality)
    return measure_row_features(module, parts.encoder, examples, name=name)


def resolve_preprocessing(
    spec: BackboneSpec, own: Preprocessing, image_size: int | None
) -> Preprocessing:
    """Return the preprocessing in force.

    With an explicit size the shorter side is resized to it and the rest cropped, so that a small
    image loses no border; the weights' own crop fraction holds only at their own size.
    """
    changes: dict[str, object] = {}
    if image_size is not None:
        changes |= {"image_size": image_size, "crop_fraction": 1.0}
    for field in ("mean", "std"):
        value = getattr(spec, field)
        if value is not None:
            changes[field] = value if isinstance(value, tuple) else (value,) * 3
    return Preprocessing.model_validate(own.model_dump() | changes)


def measure_feature_dim(module: nn.Module, image_size: int, *, name: str) -> int:
    """Return the width of the features of two images, run twice.

    Args:
        module: In eval mode.
        image_size: Height and width in pixels.
        name: Of the backbone, for messages.

    Raises:
        BackboneError: It does not run, or the features are not (2, D), finite and repeatable.
    """
    generator = torch.Generator().manual_seed(_TRIAL_SEED)
    images = torch.randn(2, 3, image_size, image_size, generator=generator)
    try:
        return _try_twice(module, images, "images", name)
    except TRIAL_FAILURES as error:
        raise BackboneError(
            f"{name}: does not run on images of {image_size} x {image_size} pixels: "
            f"{type(error).__name__}: {str(error).rstrip(' .')}. Set another image_size."
        ) from error


def _trial_examples(modality: Modality) -> Sequence[RawInput]:
    if modality == "text":
        return TRIAL_TEXTS
    noise = np.random.default_rng(_TRIAL_SEED)
    sizes = [round(seconds * _TRIAL_RATE) for seconds in _TRIAL_SECONDS]
    waves = [noise.uniform(-0.5, 0.5, size).astype(np.float32) for size in sizes]
    return [Clip(samples=wave, sample_rate=_TRIAL_RATE) for wave in waves]


def measure_row_features(
    module: nn.Module, encoder: RowEncoder, examples: Sequence[RawInput], *, name: str
) -> int:
    """Return the width of the features of two texts or clips, run twice.

    Args:
        module: In eval mode.
        encoder: Of the examples.
        examples: Two, of different length.
        name: Of the backbone, for messages.

    Raises:
        BackboneError: It does not run, or the features are not (2, D), finite and repeatable.
    """
    rows = [torch.from_numpy(row.values) for row in encoder.encode(examples)]
    padding = float("nan") if rows[0].is_floating_point() else TOKEN_PADDING
    inputs = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=padding)
    inputs = inputs if inputs.is_floating_point() else inputs.long()
    try:
        return _try_twice(module, inputs, "inputs", name)
    except TRIAL_FAILURES as error:
        raise BackboneError(
            f"{name}: does not run on two examples of {inputs.shape[1]} tokens or samples: "
            f"{type(error).__name__}: {str(error).rstrip(' .')}."
        ) from error


@torch.inference_mode()
def _try_twice(module: nn.Module, inputs: torch.Tensor, what: str, name: str) -> int:
    first, second = module(inputs), module(inputs)
    if not isinstance(first, torch.Tensor) or first.ndim != 2 or len(first) != 2:
        got = tuple(first.shape) if isinstance(first, torch.Tensor) else type(first).__name__
        raise BackboneError(f"{name}: gives {got} for two {what}, not features of shape (2, D).")
    if not torch.isfinite(first).all():
        raise BackboneError(f"{name}: its features are not finite: the weights are unusable.")
    if not torch.allclose(first, second, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise BackboneError(
            f"{name}: gives other features for the same {what}: its forward pass draws at random."
        )
    return int(first.shape[1])
