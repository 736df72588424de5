"""Tasks over real images and real weights: digits through EfficientNet-Lite0, encoded once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from bench import registry
from bench.datasets.drawing import Draw
from bench.datasets.prepare import prepare_data
from bench.interfaces import Backbone, Split, Task
from bench.spec import BackboneSpec, DatasetSpec
from bench.strategies.features import extract_features
from tests.training import TestRuntime

SIZE = 32


@dataclass(frozen=True)
class RealData:
    """A task of real data with the test split that the task does not see."""

    task: Task
    test: Split

    def arrays(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Return the features of a split, float32, shape (N, D), and its labels."""
        features = extract_features(self.task.backbone, split, self.task.runtime)
        return features.numpy(), split.labels


@cache
def real_runtime() -> TestRuntime:
    """Return the runtime whose cache holds the features that were asked for so far."""
    return TestRuntime()


@cache
def _load(name: str) -> Backbone:
    return registry.backbone_source(name).load(BackboneSpec(name=name), image_size=SIZE, seed=0)


def draw_data(
    backbone_name: str = "packaged/efficientnet-lite0",
    *,
    seed: int = 0,
    val: bool = True,
    **sampling: int,
) -> RealData:
    """Return digits through a backbone.

    Args:
        backbone_name: One that is here without a network.
        seed: Of the draw.
        val: Whether there is a val split.
        sampling: ``shots`` or ``train_examples``.
    """
    backbone, runtime = _load(backbone_name), real_runtime()
    data = prepare_data(
        DatasetSpec(name="digits", **sampling),
        backbone=backbone,
        draw=Draw(0, seed, needs_val=val),
        cache=runtime.cache,
    )
    task = Task(backbone, data.train, data.val, 10, seed, runtime)
    return RealData(task, data.test)


def accuracy(logits: torch.Tensor, split: Split) -> float:
    return float((logits.argmax(1).numpy() == split.labels).mean())
