"""Tiny real backbones and in-memory splits for tests of the strategies that take steps."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import timm
import torch
from torch import Tensor, nn

from bench.artifacts import ArtifactCache
from bench.interfaces import Backbone, Split, Stage, Task
from bench.record import BackboneInfo, NumericsPlan, Preprocessing, Progress
from bench.spec import Numerics

SIZE = 16


@dataclass
class MemoryPool:
    """Images in memory; counts how often rows were gathered."""

    images: np.ndarray
    digest: str = "memory"
    num_gathers: int = 0

    def __len__(self) -> int:
        return len(self.images)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        self.num_gathers += 1
        return self.images[rows]


@dataclass
class TestRuntime:
    """A CPU in fp32, or another device and policy, that keeps what was emitted."""

    __test__ = False

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    num_threads: int = 1
    numerics: Numerics = Numerics.FP32
    compile: bool = False
    plans: Mapping[str, NumericsPlan] = field(default_factory=dict)
    cache: ArtifactCache = field(
        default_factory=lambda: ArtifactCache(Path(tempfile.mkdtemp(prefix="bench-test-")))
    )
    emitted: list[Progress] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)

    def emit(self, progress: Progress) -> None:
        self.emitted.append(progress)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.phases.append(name)
        yield


class SmallNet(nn.Module):
    """Three stages of convolution and batch norm, with dropout that draws from global state."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.middle = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU())
        self.last = nn.Sequential(nn.Conv2d(12, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.dropout(self.last(self.middle(self.stem(inputs))).mean(dim=(2, 3)))


def make_backbone(
    module: nn.Module, stages: tuple[Stage, ...], feature_dim: int, *, trainable: bool = True
) -> Backbone:
    info = BackboneInfo(
        name="test/net",
        weights_digest="0" * 64,
        weights_source="random",
        feature_dim=feature_dim,
        num_parameters=sum(value.numel() for value in module.parameters()),
        stages=tuple(stage.name for stage in stages),
    )
    preprocessing = Preprocessing(image_size=SIZE, mean=(0.5,) * 3, std=(0.25,) * 3)
    return Backbone(module, info, preprocessing, stages, trainable)


def seeing(preprocessing: Preprocessing) -> Backbone:
    """Return a backbone for what is asked of one when data is prepared."""
    return replace(make_backbone(nn.Flatten(), (), 3), preprocessing=preprocessing)


def small_backbone(*, dropout: float = 0.0, trainable: bool = True) -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = SmallNet(dropout)
    stages = tuple(Stage(name, (name,)) for name in ("stem", "middle", "last"))
    return make_backbone(module, stages, 16, trainable=trainable)


def timm_backbone(name: str, stages: tuple[Stage, ...]) -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = timm.create_model(name, num_classes=0)
    return make_backbone(module, stages, module.num_features)


def make_split(name: str, num_examples: int, seed: int, num_classes: int = 3) -> Split:
    """Return noise in which the brightest colour channel names the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num_examples, dtype=np.int64) % num_classes
    rng.shuffle(labels)
    images = rng.integers(0, 160, size=(num_examples, SIZE, SIZE, 3), dtype=np.uint8)
    images[np.arange(num_examples), :, :, labels % 3] += 40
    ids = tuple(f"{name}-{number}" for number in range(num_examples))
    rows = np.arange(num_examples, dtype=np.int64)
    return Split(name, ids, labels, MemoryPool(images), rows, ids_digest=name)


def make_task(
    backbone: Backbone | None = None,
    *,
    num_train: int = 48,
    num_val: int | None = 24,
    seed: int = 0,
    runtime: TestRuntime | None = None,
) -> Task:
    return Task(
        backbone=backbone or small_backbone(),
        train=make_split("train", num_train, 1),
        val=None if num_val is None else make_split("val", num_val, 2),
        num_classes=3,
        seed=seed,
        runtime=runtime or TestRuntime(),
    )
