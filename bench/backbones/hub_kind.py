"""What a hub folder holds, by its files alone; imports no torch and reads no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.interfaces import Modality

CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"
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
_OF_IMAGES = ("image_size", "vision_config", "num_channels")


def folder_modality(folder: Path) -> Modality | None:
    """Return what the model in a folder takes; None when there is no configuration.

    A folder with an image processor is an image model, also beside a tokenizer (CLIP). Else one
    with a tokenizer, or with a vocabulary in its configuration, is a text model.
    """
    if not (folder / CONFIG).is_file():
        return None
    if (folder / PROCESSOR).is_file():
        return "image"
    config = read_json(folder / CONFIG)
    if any(key in config for key in _OF_IMAGES):
        return "image"
    has_tokenizer = any((folder / name).is_file() for name in _TOKENIZER)
    return "text" if has_tokenizer or "vocab_size" in config else "image"


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
