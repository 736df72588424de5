"""Decoded bytes -> what a backbone takes, on the device; knows no model and no split drawing."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from bench.interfaces import Split
from bench.record import Preprocessing

if TYPE_CHECKING:
    import numpy as np


def load_batch(split: Split, positions: np.ndarray | slice, device: torch.device) -> torch.Tensor:
    """Return decoded images of a split, uint8, shape (B, H, W, 3), on the device.

    Args:
        split: Where they come from.
        positions: Positions within the split, shape (B,), or a slice of them.
        device: Where they go; from pinned memory and without waiting when it is a GPU.
    """
    images = torch.from_numpy(split.pool.gather(split.rows[positions]))
    if device.type == "cuda":
        images = images.pin_memory()
    return images.to(device, non_blocking=True)


def normalise(images: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """Return backbone inputs, float32, shape (B, 3, H, W), in channels-last memory order.

    Args:
        images: Bytes in [0, 255] as uint8, or floats in [0, 1] after augmentation, (B, H, W, 3).
        preprocessing: Gives mean and standard deviation per channel.
    """
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
