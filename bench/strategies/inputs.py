"""Decoded examples -> what a backbone takes, on the device; knows no model, draws no split."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from bench.interfaces import SequencePool, Split
from bench.record import InputPreprocessing, Preprocessing

if TYPE_CHECKING:
    import numpy as np


def load_batch(split: Split, positions: np.ndarray | slice, device: torch.device) -> torch.Tensor:
    """Return decoded examples of a split on the device.

    Images are uint8, shape (B, H, W, 3); rows of tokens or samples are padded at the end to the
    longest of them, shape (B, L).

    Args:
        split: Where they come from.
        positions: Positions within the split, shape (B,), or a slice of them.
        device: Where they go; from pinned memory and without waiting when it is a GPU.
    """
    images = torch.from_numpy(split.pool.gather(split.rows[positions]))
    if device.type == "cuda":
        images = images.pin_memory()
    return images.to(device, non_blocking=True)


def typical_batch(
    split: Split, positions: np.ndarray, device: torch.device, preprocessing: InputPreprocessing
) -> torch.Tensor:
    """Return backbone inputs of a shape that stands for the dataset, to be timed and compared.

    Images are as they are. Texts and clips all have the median length of the dataset: longer ones
    are cut and shorter ones repeated from their start, so that there is no padding and the shape
    depends on no draw.

    Args:
        split: Where they come from.
        positions: Within the split, shape (B,).
        device: Where they go.
        preprocessing: Of the backbone.
    """
    raw = load_batch(split, positions, device)
    if isinstance(split.pool, SequencePool):
        lengths = torch.from_numpy(split.pool.lengths[split.rows[positions]]).to(device)
        places = torch.arange(split.pool.typical_length, device=device) % lengths[:, None]
        raw = raw.gather(1, places)
    return normalise(raw, preprocessing)


def normalise(raw: torch.Tensor, preprocessing: InputPreprocessing) -> torch.Tensor:
    """Return backbone inputs.

    Args:
        raw: As `load_batch` gives them; images may be floats in [0, 1] too, after augmentation.
        preprocessing: Of images, gives mean and standard deviation per channel.

    Returns:
        Images: float32, shape (B, 3, H, W), in channels-last memory order. Tokens: int64, shape
        (B, L). Samples: as they are.
    """
    if not isinstance(preprocessing, Preprocessing):
        return raw if raw.is_floating_point() else raw.long()
    images = raw
    mean, std = _mean_and_std(preprocessing.mean, preprocessing.std, images.device)
    scale = 255.0 if images.dtype == torch.uint8 else 1.0
    scaled = images.float().mul_(1 / (scale * std)) if scale != 1.0 else images / std
    return scaled.sub_(mean / std).permute(0, 3, 1, 2)


@lru_cache(maxsize=8)
def _mean_and_std(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both as tensors, shape (3,); made anew for each batch, they would wait for a GPU."""
    # Not inference tensors, whoever asks first: training uses them too.
    with torch.inference_mode(False):
        return torch.tensor(mean, device=device), torch.tensor(std, device=device)
