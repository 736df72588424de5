"""Tiny audio models of every kind with random weights, and generated clips in class folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

RATE = 16_000
WHISPER_SECONDS = 2
AST_FRAMES = 96

_CONVOLUTIONS = {"conv_dim": (16, 16, 16), "conv_kernel": (10, 3, 3), "conv_stride": (8, 4, 4)}
_TINY: Mapping[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
_WAVE = {
    **_TINY,
    **_CONVOLUTIONS,
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
_CONFIGS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "wav2vec2": ("Wav2Vec2", {**_WAVE, "feat_extract_norm": "group"}),
    "wav2vec2-layer": (
        "Wav2Vec2",
        {**_WAVE, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
    ),
    "hubert": ("Hubert", {**_WAVE, "feat_extract_norm": "group"}),
    "wavlm": ("WavLM", {**_WAVE, "feat_extract_norm": "group"}),
    "data2vec": (
        "Data2VecAudio",
        {**_WAVE, "num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5},
    ),
    "ast": ("AST", {**_TINY, "max_length": AST_FRAMES, "num_mel_bins": 32}),
    "whisper": (
        "Whisper",
        {
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "num_mel_bins": 40,
            "max_source_positions": WHISPER_SECONDS * 50,
            "vocab_size": 64,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
        },
    ),
}
KINDS = tuple(_CONFIGS)
WAVES = ("wav2vec2", "wav2vec2-layer", "hubert", "wavlm", "data2vec")


def save_model(folder: Path, kind: str, **changes: Any) -> Path:
    """Save a model of two layers with its feature extractor, as `save_pretrained` does.

    Args:
        folder: Made here.
        kind: One of `KINDS`.
        changes: To its configuration.
    """
    name, settings = _CONFIGS[kind]
    config = getattr(transformers, f"{name}Config")(**{**settings, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}Model")(config)
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    _extractor(kind).save_pretrained(folder)
    return folder


def _extractor(kind: str) -> Any:
    if kind == "ast":
        return transformers.ASTFeatureExtractor(num_mel_bins=32, max_length=AST_FRAMES)
    if kind == "whisper":
        return transformers.WhisperFeatureExtractor(feature_size=40, chunk_length=WHISPER_SECONDS)
    return transformers.Wav2Vec2FeatureExtractor(do_normalize=True)


def drop_weight(folder: Path, name: str) -> None:
    """Take one tensor out of a saved model."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors[name]
    save_file(tensors, path, metadata={"format": "pt"})


def tone(
    frequency: float, seconds: float, sample_rate: int = RATE, amplitude: float = 0.5
) -> np.ndarray:
    """Return a sine, float32."""
    times = np.arange(round(seconds * sample_rate)) / sample_rate
    return (amplitude * np.sin(2 * np.pi * frequency * times)).astype(np.float32)


def write_clips(root: Path, *, per_class: int = 24, seed: int = 0) -> Path:
    """Write low tones, high tones and noise, of several lengths, rates, channels and formats.

    Args:
        root: Gets one folder per class.
        per_class: Clips of each.
        seed: Draws pitch, length and loudness.
    """
    import soundfile

    draw = np.random.default_rng(seed)
    kinds = ((8_000, "wav", 1), (16_000, "flac", 1), (44_100, "wav", 2), (22_050, "ogg", 1))
    for name, low, high in (("low", 200, 400), ("high", 2000, 3000), ("noise", 0, 0)):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            rate, suffix, channels = kinds[number % len(kinds)]
            seconds, loudness = draw.uniform(0.25, 0.9), draw.uniform(0.2, 0.8)
            samples = tone(draw.uniform(low, high), seconds, rate, loudness)
            if name == "noise":
                samples = loudness * draw.uniform(-1, 1, len(samples)).astype(np.float32)
            stacked = np.stack([samples] * channels, axis=1)
            soundfile.write(root / name / f"{number:03}.{suffix}", stacked, rate)
    return root
