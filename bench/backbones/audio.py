"""A folder with a transformers audio model -> a checked backbone; knows not where it came from.

Features are those of the last layer. SUPERB instead learns a weighted sum of all layers, which
is a head of its own and no feature of a frozen backbone; compare with its numbers accordingly.

Source: Yang et al., 2021, SUPERB (mean over time, section 3); Baevski et al., 2020, wav2vec 2.0;
Hsu et al., 2021, HuBERT; Chen et al., 2022, WavLM; Gong et al., 2021, AST; Radford et al., 2023,
Whisper.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.backbones.assemble import Parts, assemble
from bench.backbones.audio_features import SpectrumFeatures, WaveFeatures, min_samples
from bench.backbones.clip_rows import (
    ClipForm,
    Layout,
    digest_extractor,
    load_extractor,
    make_clip_encoder,
)
from bench.backbones.hub_features import load_hub_model
from bench.backbones.hub_kind import AUDIO_TYPES
from bench.backbones.lengths import padding_leaks
from bench.backbones.stages import hub_stages
from bench.errors import BackboneError
from bench.interfaces import Backbone
from bench.record import AudioPreprocessing
from bench.spec import BackboneSpec

DEFAULT_MAX_SECONDS = 10.0
_SPEC_MASK = "masked_spec_embed"
_TRIAL_SAMPLES = (6_000, 16_000)
# Kaldi's frames, which the feature extractor of AST has and does not name: 25 ms every 10 ms.
_KALDI_WINDOW_SECONDS, _KALDI_HOP_SECONDS = 0.025, 0.010


@dataclass(frozen=True)
class _Ear:
    """An audio model, ready for rows.

    Attributes:
        limit: Seconds that the model has positions for; None where it takes any number.
        min_samples: See `ClipForm`.
    """

    module: nn.Module
    layout: Layout
    limit: float | None
    min_samples: int


def load_audio_backbone(
    spec: BackboneSpec, folder: Path, *, seed: int | None, source: str, licence: str | None
) -> Backbone:
    """Return the audio backbone of a folder.

    Random parts of pre-training are off, also in training: SpecAugment, which would hide stretches
    of a clip, and LayerDrop, which would skip layers. Dropout is the model's own.

    Args:
        spec: Its max_seconds wins over the model's own.
        folder: Configuration, feature extractor and, unless a seed is given, weights.
        seed: Draws random weights; None loads the folder's.
        source: Where the weights came from, for people.
        licence: Of the weights.

    Raises:
        WeightsMismatchError: Tensors that did not load, by name.
        BackboneError: No audio model that is known here, no feature extractor, or longer clips than
            the model takes.
    """
    extractor = load_extractor(folder, name=spec.name, trust_remote_code=spec.trust_remote_code)
    model, _ = load_hub_model(spec, folder, seed=seed, dispensable=(_SPEC_MASK,))
    kind = getattr(model.config, "model_type", "")
    if kind not in AUDIO_TYPES:
        raise BackboneError(
            f"{spec.name}: features of sound are not known for models of type '{kind}'. "
            f"Known: {', '.join(sorted(AUDIO_TYPES))}."
        )
    _turn_off_random_parts(model)
    ear = _EARS.get(kind, _wave)(model.eval(), extractor)
    rate = int(extractor.sampling_rate)
    seconds = _max_seconds(spec, ear.limit)
    form = ClipForm(max(1, round(seconds * rate)), ear.min_samples, ear.layout)
    parts = Parts(
        module=ear.module,
        own=AudioPreprocessing(
            sample_rate=rate, max_seconds=seconds, extractor=digest_extractor(extractor)
        ),
        stages=hub_stages(ear.module),
        source=source,
        licence=licence,
        modality="audio",
        encoder=make_clip_encoder(extractor, form),
    )
    return assemble(spec, parts, image_size=None)


def _wave(model: Any, extractor: Any) -> _Ear:
    # Of WavLM's attention, whose two masks differ in dtype, as transformers wrote it.
    warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
    if getattr(model.config, "do_stable_layer_norm", False):
        # Made before the layers and run behind them: stages go by the order of making.
        norm = model.encoder.layer_norm
        del model.encoder.layer_norm
        model.encoder.layer_norm = norm
    module = WaveFeatures(model)
    least = min_samples(model.config)
    module.pads = not padding_leaks(module, _trial_clips(least), float("nan"))
    return _Ear(module, "samples", None, least)


def _whisper(model: Any, extractor: Any) -> _Ear:
    encoder = model.get_encoder()
    # Sinusoids that are never trained: no parameter, so that no strategy trains them.
    positions = encoder.embed_positions
    table = positions.weight.detach()
    del positions.weight
    positions.register_buffer("weight", table)
    frames = int(extractor.nb_max_frames)
    module = SpectrumFeatures(
        encoder, num_frames=frames, num_mels=int(extractor.feature_size), pooled=False
    )
    return _Ear(module, "mels_by_frames", float(extractor.chunk_length), 1)


def _spectrogram_transformer(model: Any, extractor: Any) -> _Ear:
    frames = int(extractor.max_length)
    module = SpectrumFeatures(
        model, num_frames=frames, num_mels=int(extractor.num_mel_bins), pooled=True
    )
    limit = round(_KALDI_WINDOW_SECONDS + (frames - 1) * _KALDI_HOP_SECONDS, 3)
    least = round(_KALDI_WINDOW_SECONDS * extractor.sampling_rate)
    return _Ear(module, "frames_by_mels", limit, least)


_EARS: dict[str, Callable[[Any, Any], _Ear]] = {
    "audio-spectrogram-transformer": _spectrogram_transformer,
    "whisper": _whisper,
}


def _turn_off_random_parts(model: Any) -> None:
    config = model.config
    config.apply_spec_augment = False
    config.layerdrop = 0.0
    for module in model.modules():
        if hasattr(module, "layerdrop"):
            module.layerdrop = 0.0
    if hasattr(model, _SPEC_MASK):
        # Stands for hidden stretches, which there are none of.
        delattr(model, _SPEC_MASK)
        config.mask_time_prob = config.mask_feature_prob = 0.0


def _trial_clips(least: int) -> list[Tensor]:
    """Return noise of two lengths, in samples, of `least` at least."""
    noise = np.random.default_rng(0)
    rows = [noise.standard_normal(max(size, least)) for size in _TRIAL_SAMPLES]
    return [torch.from_numpy(row).float() for row in rows]


def _max_seconds(spec: BackboneSpec, limit: float | None) -> float:
    if spec.max_seconds is None:
        return DEFAULT_MAX_SECONDS if limit is None else limit
    if limit is not None and spec.max_seconds > limit:
        raise BackboneError(
            f"{spec.name}: max_seconds {spec.max_seconds:g} is more than the {limit:g} that the "
            "model takes. Lower it, or leave it out."
        )
    return spec.max_seconds
