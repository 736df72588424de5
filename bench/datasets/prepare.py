"""A dataset spec and seeds -> splits over a shared pool and what is known of them; no training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache as cache_result

import numpy as np

from bench.artifacts import ArtifactCache
from bench.datasets.drawing import Draw, split_dataset
from bench.datasets.images import ImagePool, decode_encoded, encode_example
from bench.datasets.splits import PART_ORDER, DrawnSplits, count_duplicates
from bench.digests import digest_strings
from bench.interfaces import Emit, Examples, RawDataset, Split
from bench.record import DataInfo, Preprocessing, Progress, SplitInfo
from bench.registry import dataset_source
from bench.spec import DatasetSpec


@dataclass(frozen=True)
class PreparedData:
    """The data of a cell, ready to train on; images are decoded when they are first gathered.

    Attributes:
        val: None where nothing is to be chosen.
        example: Decodes one train example from its encoded bytes, as a deployed model does for each
            request; uint8, shape (S, S, 3). The first call reads the bytes, later ones have them.
    """

    train: Split
    val: Split | None
    test: Split
    info: DataInfo
    example: Callable[[], np.ndarray]


def prepare_data(
    spec: DatasetSpec,
    *,
    preprocessing: Preprocessing,
    split_seed: int,
    seed: int,
    needs_val: bool,
    cache: ArtifactCache,
    emit: Emit | None = None,
    fold: int | None = None,
) -> PreparedData:
    """Return the splits of a dataset over one pool of decoded images.

    Nothing is decoded here, save for checking files that were not checked before.

    Args:
        spec: With ``shots`` as one number; a list of them is for the plan to expand.
        preprocessing: Size, interpolation and crop of the pool.
        split_seed: Draws the test split.
        seed: Draws val and samples.
        needs_val: Whether the strategy chooses anything, or is fitted again with val.
        cache: Holds decoded images and digests.
        emit: Told once that data is being read.
        fold: Which of the spec's folds is tested on; None where it has none.

    Raises:
        DatasetError: The data cannot be found, read or split as asked.
    """
    if emit is not None:
        emit(Progress(phase="data"))
    dataset = dataset_source(spec.name).load(spec, cache)
    parts = [dataset.parts[part] for part in PART_ORDER if part in dataset.parts]
    drawn = split_dataset(dataset, spec, Draw(split_seed, seed, fold, needs_val))
    pool = ImagePool(dataset, preprocessing, cache)
    splits = _build_splits(parts, drawn, pool)
    encoded = cache_result(lambda: encode_example(pool, int(drawn.train[0])))
    return PreparedData(
        train=splits["train"],
        val=splits.get("val"),
        test=splits["test"],
        info=_describe(dataset, splits, count_duplicates(_contents(parts), drawn), preprocessing),
        example=lambda: decode_encoded(encoded(), preprocessing),
    )


def _contents(parts: Sequence[Examples]) -> list[str]:
    return [digest for part in parts for digest in part.contents]


def _build_splits(
    parts: Sequence[Examples], drawn: DrawnSplits, pool: ImagePool
) -> dict[str, Split]:
    ids = [id_ for part in parts for id_ in part.ids]
    labels = np.concatenate([part.labels for part in parts])
    splits = {}
    for name, rows in drawn.items():
        chosen = tuple(ids[row] for row in rows)
        splits[name] = Split(
            name=name,
            ids=chosen,
            labels=labels[rows],
            pool=pool,
            rows=rows,
            ids_digest=digest_strings(chosen),
        )
    return splits


def _describe(
    dataset: RawDataset,
    splits: dict[str, Split],
    num_duplicates: int,
    preprocessing: Preprocessing,
) -> DataInfo:
    num_classes = len(dataset.class_names)
    majority = int(np.bincount(splits["train"].labels, minlength=num_classes).argmax())
    return DataInfo(
        fingerprint=dataset.fingerprint,
        class_names=dataset.class_names,
        splits={name: _describe_split(split, num_classes) for name, split in splits.items()},
        num_duplicates=num_duplicates,
        num_corrupt=dataset.num_corrupt,
        corrupt=dataset.corrupt,
        majority_accuracy=float((splits["test"].labels == majority).mean()),
        image_size=preprocessing.image_size,
    )


def _describe_split(split: Split, num_classes: int) -> SplitInfo:
    counts = np.bincount(split.labels, minlength=num_classes)
    return SplitInfo(
        num_examples=len(split), class_counts=tuple(counts.tolist()), ids_digest=split.ids_digest
    )
