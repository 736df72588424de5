"""Random views of images, and mixtures of them, computed per batch; it knows no model.

No draw waits for the device: it is made there, or on the host and passed on as a number.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.spec import TrainingSpec
from bench.strategies.feed import Batch

MIN_AREA = 0.5
MAX_LOG_RATIO = math.log(4 / 3)
MAX_ROTATION = math.radians(20)
MAX_SHEAR = 0.2
MAX_JITTER = 0.4
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Augmentation:
    """A kind of random view with the generator that draws it.

    ``flip_crop``: a horizontal flip with probability 1/2 and a resized crop of 50-100% of the area
    with an aspect ratio of 3/4 to 4/3. ``strong`` adds rotation and shear, brightness, contrast and
    saturation, and, each on a part of the samples, grey, solarisation, posterisation and erasing.

    Source: Szegedy et al., 2015 (resized crop); Cubuk et al., 2020 (per-sample operations of random
    strength); Zhong et al., 2020 (erasing). Strengths are milder than for training from scratch.
    """

    kind: Literal["flip_crop", "strong"]
    generator: torch.Generator

    def __call__(self, images: Tensor) -> Tensor:
        """Return new views, same shape, float32.

        Args:
            images: In [0, 1], float32, shape (B, H, W, 3).
        """
        maps = images.permute(0, 3, 1, 2)
        strong = self.kind == "strong"
        views = warp_images(maps, self._draw_affine(len(maps), warped=strong))
        if strong:
            views = self._erase(self._recolour(views))
        return views.permute(0, 2, 3, 1)

    def _uniform(self, num_samples: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return one number per sample, shape (B, 1, 1, 1)."""
        device = self.generator.device
        draw = torch.rand((num_samples, 1, 1, 1), generator=self.generator, device=device)
        return draw * (high - low) + low

    def _draw_affine(self, num_samples: int, *, warped: bool) -> Tensor:
        """Return output -> input transforms in [-1, 1] coordinates, shape (B, 2, 3)."""
        area = self._uniform(num_samples, MIN_AREA, 1.0).flatten()
        ratio = self._uniform(num_samples, -MAX_LOG_RATIO, MAX_LOG_RATIO).flatten().exp()
        width = (area * ratio).sqrt().clamp(max=1.0)
        height = (area / ratio).sqrt().clamp(max=1.0)
        shift_x = self._uniform(num_samples, -1, 1).flatten() * (1 - width)
        shift_y = self._uniform(num_samples, -1, 1).flatten() * (1 - height)
        flip = (self._uniform(num_samples).flatten() < 0.5) * -2.0 + 1.0
        zero = torch.zeros_like(area)
        linear = torch.stack((width * flip, zero, zero, height), dim=1).view(-1, 2, 2)
        if warped:
            linear = self._draw_rotation(num_samples) @ linear
        shift = torch.stack((shift_x, shift_y), dim=1)
        return torch.cat((linear, shift[:, :, None]), dim=2)

    def _draw_rotation(self, num_samples: int) -> Tensor:
        """Return a rotation with a horizontal shear for half of the samples, shape (B, 2, 2)."""
        chosen = (self._uniform(num_samples).flatten() < 0.5).float()
        angle = self._uniform(num_samples, -MAX_ROTATION, MAX_ROTATION).flatten() * chosen
        shear = self._uniform(num_samples, -MAX_SHEAR, MAX_SHEAR).flatten() * chosen
        sin, cos = angle.sin(), angle.cos()
        return torch.stack((cos, cos * shear - sin, sin, sin * shear + cos), dim=1).view(-1, 2, 2)

    def _recolour(self, maps: Tensor) -> Tensor:
        num = len(maps)
        low, high = 1 - MAX_JITTER, 1 + MAX_JITTER
        maps = maps * self._uniform(num, low, high)
        mean = maps.mean(dim=(1, 2, 3), keepdim=True)
        maps = torch.lerp(mean, maps, self._uniform(num, low, high))
        # Numbers, not a tensor of them, which would have to be copied to the device each time.
        red, green, blue = (maps[:, c : c + 1] * weight for c, weight in enumerate(_LUMA))
        grey = red + green + blue
        saturation = self._uniform(num, low, high) * (self._uniform(num) >= 0.1)
        maps = torch.lerp(grey.expand_as(maps), maps, saturation).clamp(0, 1)
        maps = torch.where((maps > 0.5) & (self._uniform(num) < 0.1), 1 - maps, maps)
        levels = torch.floor(self._uniform(num, 4, 16))
        return torch.where(self._uniform(num) < 0.1, (maps * levels).round() / levels, maps)

    def _erase(self, maps: Tensor) -> Tensor:
        """Fill a rectangle of 2-25% of the area with the sample's mean, on a quarter of samples."""
        num, _, rows, columns = maps.shape
        area = self._uniform(num, 0.02, 0.25)
        ratio = self._uniform(num, -MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        height, width = (area * ratio).sqrt(), (area / ratio).sqrt()
        top = self._uniform(num) * (1 - height)
        left = self._uniform(num) * (1 - width)
        y = (torch.arange(rows, device=maps.device).view(1, 1, -1, 1) + 0.5) / rows
        x = (torch.arange(columns, device=maps.device).view(1, 1, 1, -1) + 0.5) / columns
        inside = (y >= top) & (y < top + height) & (x >= left) & (x < left + width)
        chosen = inside & (self._uniform(num) < 0.25)
        return torch.where(chosen, maps.mean(dim=(2, 3), keepdim=True), maps)


def warp_images(maps: Tensor, affine: Tensor) -> Tensor:
    """Return images resampled bilinearly, shape (B, C, H, W); outside, edges are mirrored.

    Args:
        maps: Shape (B, C, H, W).
        affine: Output -> input coordinates in [-1, 1], x before y, shape (B, 2, 3).
    """
    grid = F.affine_grid(affine, list(maps.shape), align_corners=False)
    return F.grid_sample(maps, grid, padding_mode="reflection", align_corners=False)


def make_augmentation(
    kind: Literal["none", "flip_crop", "strong"], seed: int, device: torch.device
) -> Augmentation | None:
    """Return the augmentation of a setting, or None for none.

    Args:
        kind: As in the suite.
        seed: Fixes every draw on one kind of device.
        device: Where the images are.
    """
    if kind == "none":
        return None
    return Augmentation(kind, torch.Generator(device).manual_seed(seed))


@dataclass(frozen=True)
class Mixing:
    """Examples of a batch mixed in pairs, labels in the same shares.

    Mixup blends two images; CutMix fills a rectangle of one from the other. One share, and one of
    the two where both are on, is drawn per batch, each pair by a permutation of the batch.

    Attributes:
        mixup: Alpha of the Beta distribution of the share; 0 is off.
        cutmix: Likewise the share of the area; 0 is off. One of the two is on.
        num_classes: K.
        generator: Draws the permutations, on the device.
        numbers: Draws the rest, on the host: the size of a rectangle has to be known there.

    Source: Zhang et al., 2018, section 2 (mixup); Yun et al., 2019, section 3.1 (CutMix).
    """

    mixup: float
    cutmix: float
    num_classes: int
    generator: torch.Generator
    numbers: random.Random

    def __call__(self, batch: Batch) -> Batch:
        """Return mixed examples, same shapes; labels become probabilities, shape (B, K), float32.

        Args:
            batch: Inputs of shape (B, C, H, W), class indices of shape (B,).
        """
        draw = torch.rand(len(batch.labels), generator=self.generator, device=self.generator.device)
        partners = draw.argsort()
        cuts = self.mixup == 0 or (self.cutmix > 0 and self.numbers.random() < 0.5)
        alpha = self.cutmix if cuts else self.mixup
        share = self.numbers.betavariate(alpha, alpha)
        if cuts:
            inputs, share = self._cut(batch.inputs, partners, share)
        else:
            # Blended in memory order, which is channels last: indexing would undo it.
            images = batch.inputs.permute(0, 2, 3, 1)
            inputs = torch.lerp(images[partners], images, share).permute(0, 3, 1, 2)
        # `one_hot` may look at the labels, for which it would wait.
        classes = torch.arange(self.num_classes, device=batch.labels.device)
        labels = (batch.labels[:, None] == classes).float()
        labels = torch.lerp(labels[partners], labels, share)
        return Batch(inputs, labels, batch.waited_seconds)

    def _cut(self, inputs: Tensor, partners: Tensor, share: float) -> tuple[Tensor, float]:
        """Return inputs with a rectangle from their partners, and the share of what is left."""
        height, width = inputs.shape[-2:]
        side = math.sqrt(1 - share)
        top, bottom = self._interval(height, side)
        left, right = self._interval(width, side)
        mixed = inputs.clone()
        mixed[:, :, top:bottom, left:right] = inputs[:, :, top:bottom, left:right][partners]
        return mixed, 1 - (bottom - top) * (right - left) / (height * width)

    def _interval(self, length: int, fraction: float) -> tuple[int, int]:
        """Return an interval around a uniform centre, what juts out cut off."""
        half = round(length * fraction) / 2
        centre = self.numbers.randrange(length)
        return max(0, round(centre - half)), min(length, round(centre + half))


def make_mixing(
    setting: TrainingSpec, num_classes: int, seed: int, device: torch.device
) -> Mixing | None:
    """Return the mixing of a setting, or None for none.

    Args:
        setting: Gives `mixup` and `cutmix`.
        num_classes: Of the labels.
        seed: Fixes every draw on one kind of device.
        device: Where the batches are.
    """
    if not setting.mixup and not setting.cutmix:
        return None
    generator = torch.Generator(device).manual_seed(seed)
    return Mixing(setting.mixup, setting.cutmix, num_classes, generator, random.Random(seed))
