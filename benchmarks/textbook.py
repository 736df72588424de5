"""The loops that people write, as references; it uses no part of bench.

PIL transforms in a `DataLoader` with workers, float32, contiguous memory, `AdamW` with its
defaults, the loss read every step: what tutorials show.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import transforms

from benchmarks.measure import Timing, timed

BATCH_SIZE = 64


@dataclass(frozen=True)
class Look:
    """How images are shown to a model: height and width in pixels, mean and deviation."""

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def transform(self) -> Callable[[Image.Image], Tensor]:
        """Return the transforms, one image at a time."""
        steps: Sequence[Callable[..., object]] = (
            transforms.Resize(self.image_size, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(self.image_size),
            transforms.ToTensor(),
            transforms.Normalize(self.mean, self.std),
        )
        composed: Callable[[Image.Image], Tensor] = transforms.Compose(steps)
        return composed


class ImageList(Dataset[tuple[Tensor, int]]):
    """Images in memory, transformed each time they are asked for.

    Args:
        images: As stored, before any resize, uint8, shape (N, H, W, 3).
        labels: Class indices, shape (N,).
        look: Its transforms.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, look: Look) -> None:
        self._images = images
        self._labels = labels
        self._transform = look.transform()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self._images[index])
        return self._transform(image), int(self._labels[index])


def make_loader(
    examples: Dataset[tuple[Tensor, int]], *, shuffle: bool
) -> DataLoader[tuple[Tensor, int]]:
    """Return a loader with a worker per core."""
    workers = len(os.sched_getaffinity(0))
    return DataLoader(examples, batch_size=BATCH_SIZE, shuffle=shuffle, num_workers=workers)


class TextbookModel(nn.Module):
    """A backbone and a linear head.

    Args:
        backbone: Images -> features, shape (B, D).
        feature_dim: D.
        num_classes: Logits.
    """

    def __init__(self, backbone: nn.Module, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(feature_dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape (B, K)."""
        logits: Tensor = self.head(self.backbone(images))
        return logits


def freeze_but(model: TextbookModel, trained: Sequence[str]) -> None:
    """Let only the named modules of the backbone, and the head, train; the rest is in eval mode."""
    model.backbone.requires_grad_(False)
    model.backbone.eval()
    for path in trained:
        module = model.backbone.get_submodule(path)
        module.requires_grad_(True)
        module.train()


def train_epoch(
    model: TextbookModel, loader: DataLoader[tuple[Tensor, int]], learning_rate: float = 1e-3
) -> float:
    """Train one epoch on what has a gradient and return the mean loss of its batches."""
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate)
    criterion = nn.CrossEntropyLoss()
    total = 0.0
    for images, labels in loader:
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(loader)


@torch.no_grad()
def evaluate(model: TextbookModel, loader: DataLoader[tuple[Tensor, int]]) -> float:
    """Return the accuracy over a loader."""
    model.eval()
    right = 0
    for images, labels in loader:
        right += int((model(images).argmax(dim=1) == labels).sum())
    return right / len(loader.dataset)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Rates:
    """What the loop costs, from a part of the data, to be scaled to all of it.

    Attributes:
        train: Per image that is trained on.
        score: Per image that is evaluated.
        start: Per pass over a loader: its workers start anew.
    """

    train: Timing
    score: Timing
    start: Timing

    def loop(self, sizes: Sequence[int], epochs: int) -> Timing:
        """Return the time of a whole loop: val is scored after every epoch, test at the end.

        Args:
            sizes: Images of train, val and test.
            epochs: Passes over train.
        """
        train, val, test = sizes
        passes = epochs * (1 + (val > 0)) + (test > 0)
        return (
            self.train.scaled(epochs * train)
            + self.score.scaled(epochs * val + test)
            + self.start.scaled(passes)
        )


def measure_rates(
    model: TextbookModel, examples: ImageList, trained: Sequence[str] | None
) -> Rates:
    """Return what an epoch and an evaluation of a part cost per image.

    Args:
        model: It is trained.
        examples: The part.
        trained: Modules of the backbone that train; None trains all of it.
    """
    one = Subset(examples, [0])
    start = timed(lambda: list(make_loader(one, shuffle=False)))
    model.train()
    if trained is not None:
        freeze_but(model, trained)
    training = timed(lambda: train_epoch(model, make_loader(examples, shuffle=True)))
    scoring = timed(lambda: evaluate(model, make_loader(examples, shuffle=False)))
    share = 1 / len(examples)
    less = start.scaled(-1)
    return Rates((training + less).scaled(share), (scoring + less).scaled(share), start)
