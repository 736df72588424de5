"""What a hub folder holds, by its files alone; imports no torch and reads no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.interfaces import Modality

CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"
_PROCESSORS = "processor_config.json"
_OF_PROCESSORS = ("image_processor", "feature_extractor", "audio_processor")
POOLING = "1_Pooling/config.json"
SENTENCES = "sentence_bert_config.json"
_TOKENIZER = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
)
_BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
AUDIO_TYPES = frozenset(
    {"audio-spectrogram-transformer", "data2vec-audio", "hubert", "sew", "sew-d", "unispeech"}
    | {"unispeech-sat", "wav2vec2", "wav2vec2-conformer", "wavlm", "whisper"}
)
"""Values of ``model_type`` that `audio` knows features of."""

_OF_IMAGES = ("image_size", "vision_config", "num_channels")


def folder_modality(folder: Path) -> Modality | None:
    """Return what the model in a folder takes; None when there is no configuration.

    A folder whose processor has a sample rate is an audio model, also beside a tokenizer (Whisper).
    One with another processor is an image model, also beside a tokenizer (CLIP). Else one with a
    tokenizer, or with a vocabulary in its configuration, is a text model.
    """
    if not (folder / CONFIG).is_file():
        return None
    config = read_json(folder / CONFIG)
    if "sampling_rate" in read_processor(folder) or config.get("model_type") in AUDIO_TYPES:
        return "audio"
    if processor_files(folder):
        return "image"
    if any(key in config for key in _OF_IMAGES):
        return "image"
    has_tokenizer = any((folder / name).is_file() for name in _TOKENIZER)
    return "text" if has_tokenizer or "vocab_size" in config else "image"


def processor_files(folder: Path) -> tuple[Path, ...]:
    """Return the files that say how images or clips are prepared.

    Version 5 of transformers writes them into ``processor_config.json`` where a tokenizer is saved
    with them.
    """
    own, both = folder / PROCESSOR, folder / _PROCESSORS
    return (*([own] if own.is_file() else []), *([both] if _read_nested(folder) else []))


def read_processor(folder: Path) -> dict[str, Any]:
    """Return the settings of an image processor or a feature extractor; empty without any."""
    return _read_nested(folder) or read_json(folder / PROCESSOR)


def _read_nested(folder: Path) -> dict[str, Any]:
    both = read_json(folder / _PROCESSORS)
    nested = (both.get(name) for name in _OF_PROCESSORS)
    return next((settings for settings in nested if isinstance(settings, dict)), {})


def text_files(folder: Path) -> tuple[Path, ...]:
    """Return the files beside configuration and weights that decide a text model's numbers."""
    names = (*_TOKENIZER, *_BESIDE, POOLING, SENTENCES)
    return tuple(folder / name for name in names if (folder / name).is_file())


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder holds the vocabulary of a tokenizer."""
    return any((folder / name).is_file() for name in _TOKENIZER)


def read_json(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file; empty when the file is absent, damaged or no mapping."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
