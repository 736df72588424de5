"""Clips -> rows of samples or of log-mel frames, by a model's own feature extractor.

A clip is resampled once to the rate that the model was trained on, by soxr, cut to a length, and
taken through the feature extractor alone, never in a padded batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from bench.backbones.checks import NO_RESAMPLER
from bench.digests import digest_value
from bench.errors import BackboneError
from bench.interfaces import Clip, EncodedRow, RawInput, RowEncoder

Layout: TypeAlias = Literal["samples", "frames_by_mels", "mels_by_frames"]

_VERSION = 1
_QUALITY = "HQ"
"""Of soxr: aliases and images lie below 20 bits of the signal."""


@dataclass(frozen=True)
class ClipForm:
    """What the rows of a model are.

    Attributes:
        max_samples: Of one clip, at the model's rate; what is longer is cut at its end.
        min_samples: Shorter clips end in silence, so that the model has one frame at least.
        layout: What the feature extractor gives: samples, shape (L,), or log-mel frames, shape
            (frames, mels) or (mels, frames), which are laid end to end in a row.
    """

    max_samples: int
    min_samples: int
    layout: Layout


def load_extractor(folder: Path, *, name: str, trust_remote_code: bool) -> Any:
    """Return the feature extractor of a folder.

    Args:
        folder: Where its configuration is.
        name: Of the backbone, for messages.
        trust_remote_code: Whether code of the repository may run.

    Raises:
        BackboneError: There is none, or it cannot be read.
    """
    from transformers import AutoFeatureExtractor

    try:
        with warnings.catch_warnings():
            # Of AST's 128 mel filters over 257 bins the lowest are narrower than a bin, as trained.
            warnings.filterwarnings("ignore", message="At least one mel filter")
            return AutoFeatureExtractor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=trust_remote_code
            )
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        raise BackboneError(
            f"{name}: transformers cannot load a feature extractor from {folder}: "
            f"{type(error).__name__}: {error}"
        ) from error


def make_clip_encoder(extractor: Any, form: ClipForm) -> RowEncoder:
    """Return what resamples clips and takes them through a feature extractor, each alone.

    Args:
        extractor: Of transformers.
        form: Of the rows. Frames are those of the clip and one of the silence that the extractor
            pads it with, which stands for all that follow.

    Raises:
        BackboneError: The package soxr is not installed.
    """
    versions = _versions()
    rate = int(extractor.sampling_rate)

    def encode_one(clip: RawInput) -> EncodedRow:
        if not isinstance(clip, Clip):
            raise TypeError(f"a clip was expected, not {type(clip).__name__}")
        samples = resample(clip, rate)
        short = max(0, form.min_samples - len(samples))
        kept = np.pad(samples[: form.max_samples], (0, short))
        values = _extract(extractor, kept, form.layout)
        return EncodedRow(values, is_truncated=len(samples) > form.max_samples)

    def encode(clips: Sequence[RawInput]) -> list[EncodedRow]:
        with ThreadPoolExecutor() as threads:
            return list(threads.map(encode_one, clips))

    limits = [form.max_samples, form.min_samples, form.layout]
    return RowEncoder(encode, digest_value([digest_extractor(extractor), limits, *versions]))


def resample(clip: Clip, sample_rate: int) -> np.ndarray:
    """Return a clip's samples at another rate, float32; as they are where the rate is the same.

    What the lower of the two rates cannot hold is filtered out, so that nothing is aliased.

    Raises:
        BackboneError: The package soxr is not installed.

    Source: the SoX Resampler library, at its high quality.
    """
    if clip.sample_rate == sample_rate:
        return clip.samples.astype(np.float32, copy=False)
    samples: np.ndarray = _import_soxr().resample(
        clip.samples, clip.sample_rate, sample_rate, quality=_QUALITY
    )
    return samples.astype(np.float32, copy=False)


def digest_extractor(extractor: Any) -> str:
    """Return sha256 of a feature extractor's settings; where its files lie is not in it."""
    settings = {key: value for key, value in extractor.to_dict().items() if not key.startswith("_")}
    return digest_value([type(extractor).__name__, settings])


def _extract(extractor: Any, samples: np.ndarray, layout: Layout) -> np.ndarray:
    """Return the row of one clip, float32, shape (L,)."""
    output = extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="np")
    values = np.asarray(output[extractor.model_input_names[0]][0], dtype=np.float32)
    if layout == "samples":
        return values
    frames = values.T if layout == "mels_by_frames" else values
    return np.ascontiguousarray(_without_repeats(frames)).reshape(-1)


def _without_repeats(frames: np.ndarray) -> np.ndarray:
    """Return frames up to the first of those that equal the last one to the end."""
    differs = (frames != frames[-1]).any(axis=1).nonzero()[0]
    return frames[: int(differs[-1]) + 2] if len(differs) else frames[:1]


def _versions() -> list[str]:
    """Return what else decides the rows: the code here, the resampler's and the extractor's."""
    import torch
    import transformers
    from transformers.utils import is_speech_available

    resampler = f"soxr {_import_soxr().__version__} {_QUALITY}"
    # With torchaudio, transformers computes mel banks by another code.
    speech = f"torchaudio {is_speech_available()}"
    return [str(_VERSION), resampler, transformers.__version__, torch.__version__, speech]


def _import_soxr() -> Any:
    try:
        import soxr
    except ImportError as error:
        raise BackboneError(NO_RESAMPLER) from error
    return soxr
