"""Backbones, data and runtimes as cells get them, without a process of their own."""

from __future__ import annotations

import copy
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from bench import registry
from bench.artifacts import ArtifactCache
from bench.datasets.drawing import Draw
from bench.datasets.prepare import PreparedData, prepare_data
from bench.interfaces import Backbone, Split, Task
from bench.record import Progress
from bench.spec import BackboneSpec, DatasetSpec, Numerics
from benchmarks import textbook

LITE0 = BackboneSpec(name="packaged/efficientnet-lite0")
RESNET18 = BackboneSpec(name="timm/resnet18", weights="random")
VIT_TINY = BackboneSpec(name="timm/vit_tiny_patch16_224", weights="random")
BACKBONES = (LITE0, RESNET18, VIT_TINY)
"""Real weights where a package has them; speed does not depend on what weights hold."""

SCOPE = "benchmark"


@dataclass
class BenchRuntime:
    """The machine as `execute` gives it to a strategy, on the CPU.

    Attributes:
        root: Of the artifact cache.
        seconds: Wall seconds by phase since the last `forget`.
    """

    root: Path
    numerics: Numerics = Numerics.AUTO
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    num_threads: int = field(default_factory=torch.get_num_threads)
    compile: bool = False
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cache = ArtifactCache(self.root, run_scope=SCOPE)

    def emit(self, progress: Progress) -> None:
        """Show nothing."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add to the phase's wall seconds; phases inside it count too."""
        began = time.perf_counter()
        try:
            yield
        finally:
            taken = time.perf_counter() - began
            self.seconds[name] = self.seconds.get(name, 0.0) + taken

    def forget(self, *kinds: str) -> None:
        """Drop artifacts of the run by kind, as a new run would; numerics plans stay known."""
        for kind in kinds:
            shutil.rmtree(self.root / "runs" / SCOPE / kind, ignore_errors=True)
        self.cache = ArtifactCache(self.root, run_scope=SCOPE)
        self.seconds = {}


@contextmanager
def temporary_runtime(numerics: Numerics = Numerics.AUTO) -> Iterator[BenchRuntime]:
    """Give a runtime over an empty cache that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-benchmark-") as folder:
        yield BenchRuntime(Path(folder), numerics)


def load_backbone(spec: BackboneSpec, image_size: int) -> Backbone:
    """Return a backbone as a cell loads it."""
    source = registry.backbone_source(spec.name)
    return source.load(spec, image_size=image_size, seed=0)


def prepare(
    backbone: Backbone, dataset: DatasetSpec, runtime: BenchRuntime, *, needs_val: bool = True
) -> PreparedData:
    """Return a dataset's splits with every image decoded: decoding is no part of these claims."""
    data = prepare_data(
        dataset,
        backbone=backbone,
        draw=Draw(0, 0, needs_val=needs_val),
        cache=runtime.cache,
    )
    for split in (data.train, data.val, data.test):
        if split is not None:
            split.pool.gather(split.rows)
    return data


def part_of(split: Split, count: int) -> Split:
    """Return examples spread evenly over a split, which may be sorted by class."""
    chosen = np.linspace(0, len(split) - 1, min(count, len(split))).astype(np.int64)
    return Split(
        name=split.name,
        ids=tuple(split.ids[position] for position in chosen),
        labels=split.labels[chosen],
        pool=split.pool,
        rows=split.rows[chosen],
        ids_digest=f"{split.ids_digest}:{count}",
    )


def make_task(
    backbone: Backbone, data: PreparedData, runtime: BenchRuntime, *, with_val: bool = True
) -> Task:
    """Return what a strategy sees."""
    return Task(
        backbone=backbone,
        train=data.train,
        val=data.val if with_val else None,
        num_classes=len(data.info.class_names),
        seed=0,
        runtime=runtime,
    )


def images_of(split: Split) -> np.ndarray:
    """Return the decoded images of a split, uint8, shape (N, S, S, 3)."""
    return split.pool.gather(split.rows)


def raw_examples(dataset: DatasetSpec, runtime: BenchRuntime, split: Split) -> np.ndarray:
    """Return the images of a split before any resize, uint8, shape (N, H, W, 3).

    Only of a dataset of one part, whose rows are its positions, and of images of one size.
    """
    source = registry.dataset_source(dataset.name).load(dataset, runtime.cache)
    read = source.parts["train"].read
    return np.stack([np.asarray(read(int(row)).convert("RGB")) for row in split.rows])


def textbook_look(backbone: Backbone) -> textbook.Look:
    """Return the textbook transforms that show a backbone its images."""
    own = backbone.preprocessing
    return textbook.Look(own.image_size, own.mean, own.std)


def textbook_model(backbone: Backbone, num_classes: int) -> textbook.TextbookModel:
    """Return a copy of a backbone in contiguous memory with a head, ready for a textbook loop."""
    module = copy.deepcopy(backbone.module).to(memory_format=torch.contiguous_format)
    return textbook.TextbookModel(module, backbone.info.feature_dim, num_classes)


def textbook_examples(
    backbone: Backbone, dataset: DatasetSpec, runtime: BenchRuntime, split: Split
) -> textbook.ImageList:
    """Return a split as a textbook dataset; see `raw_examples` for what it may be."""
    raw = raw_examples(dataset, runtime, split)
    return textbook.ImageList(raw, split.labels, textbook_look(backbone))
