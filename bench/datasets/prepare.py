"""A dataset spec and seeds -> splits over a shared pool and what is known of them; no training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache as cache_result

import numpy as np

from bench.artifacts import ArtifactCache
from bench.datasets.drawing import Draw, split_dataset
from bench.datasets.images import ImagePool, decode_encoded, encode_example
from bench.datasets.parts import PART_ORDER
from bench.datasets.sequences import SequenceRows
from bench.datasets.splits import DrawnSplits, count_duplicates
from bench.digests import digest_strings
from bench.errors import DatasetError
from bench.interfaces import Backbone, Emit, Examples, Pool, RawDataset, RawInput, Split
from bench.record import DataInfo, Preprocessing, Progress, SplitInfo
from bench.registry import dataset_source
from bench.spec import DatasetSpec


@dataclass(frozen=True)
class PreparedData:
    """The data of a cell, ready to train on; images are decoded when they are first gathered.

    Attributes:
        val: None where nothing is to be chosen.
        example: Takes one train example from what a deployed model is sent to a row of inputs: an
            image from its encoded bytes to uint8, shape (S, S, 3); a text or clip of typical length
            to shape (L,). The first call reads the example, later ones have it.
        backbone: The one that was given, fitted to train where it has to be.
    """

    train: Split
    val: Split | None
    test: Split
    info: DataInfo
    example: Callable[[], np.ndarray]
    backbone: Backbone


def prepare_data(
    spec: DatasetSpec,
    *,
    draw: Draw,
    backbone: Backbone,
    cache: ArtifactCache,
    emit: Emit | None = None,
) -> PreparedData:
    """Return the splits of a dataset over one pool of what the backbone takes.

    No image is decoded here, save for checking files that were not checked before; texts and clips
    are encoded, if they were not before.

    Args:
        spec: With ``shots`` as one number; a list of them is for the plan to expand.
        draw: Seeds and fold of the splits.
        backbone: Decides the form of the pool; fitted to train here, if it has to be.
        cache: Holds decoded images, tokens and digests.
        emit: Told once that data is being read.

    Raises:
        DatasetError: The data cannot be found, read or split as asked, or is of another modality
            than the backbone takes.
    """
    if emit is not None:
        emit(Progress(phase="data"))
    dataset = dataset_source(spec.name).load(spec, cache)
    parts = [dataset.parts[part] for part in PART_ORDER if part in dataset.parts]
    drawn = split_dataset(dataset, spec, draw)
    _check_modality(spec, parts[0], backbone)
    if backbone.fit is not None:
        backbone = backbone.fit(_read_texts(parts, drawn.train))
    pool, example = _make_pool(dataset, drawn, backbone, cache)
    splits = _build_splits(parts, drawn, pool)
    return PreparedData(
        backbone=backbone,
        train=splits["train"],
        val=splits.get("val"),
        test=splits["test"],
        info=_describe(dataset, splits, count_duplicates(_contents(parts), drawn), backbone),
        example=example,
    )


def _check_modality(spec: DatasetSpec, examples: Examples, backbone: Backbone) -> None:
    if examples.modality != backbone.modality:
        raise DatasetError(
            f"{spec.name}: its examples are of modality '{examples.modality}', and the backbone "
            f"{backbone.info.name} takes '{backbone.modality}'. Leave the pair out with exclude."
        )


def _locate(parts: Sequence[Examples], row: int) -> tuple[Examples, int]:
    """Return the part that a row belongs to, of parts laid end to end, and its position there."""
    for part in parts:
        if row < len(part.ids):
            return part, row
        row -= len(part.ids)
    raise IndexError(row)


def _read_texts(parts: Sequence[Examples], rows: np.ndarray) -> list[str]:
    located = (_locate(parts, int(row)) for row in rows)
    return [str(part.read(position)) for part, position in located]


def _make_pool(
    dataset: RawDataset, drawn: DrawnSplits, backbone: Backbone, cache: ArtifactCache
) -> tuple[Pool, Callable[[], np.ndarray]]:
    """Return the pool, and what takes one raw train example to a row of inputs."""
    how = backbone.preprocessing
    if isinstance(how, Preprocessing):
        images = ImagePool(dataset, how, cache)
        encoded = cache_result(lambda: encode_example(images, int(drawn.train[0])))
        return images, lambda: decode_encoded(encoded(), how)
    encoder = backbone.encoder
    if encoder is None:
        raise DatasetError(f"{backbone.info.name} has no encoder of {backbone.modality}.")
    rows = SequenceRows(dataset, backbone.modality, encoder, cache)
    away = np.abs(rows.lengths[drawn.train] - rows.typical_length)
    part, position = _locate(
        [dataset.parts[name] for name in PART_ORDER if name in dataset.parts],
        int(drawn.train[int(away.argmin())]),
    )
    raw = _as_sent(part, position)
    return rows, lambda: encoder.encode([raw()])[0].values


def _as_sent(part: Examples, position: int) -> Callable[[], RawInput]:
    """Return what takes an example from what a deployed model is sent; reads it once.

    A clip is sent as a file and decoded each time, a text as it is.
    """
    encoded = part.encoded
    if part.modality == "audio" and encoded is not None:
        from bench.datasets.clips import open_clip

        data = cache_result(lambda: encoded(position))
        return lambda: open_clip(data())
    return cache_result(lambda: part.read(position))


def _contents(parts: Sequence[Examples]) -> list[str]:
    return [digest for part in parts for digest in part.contents]


def _build_splits(parts: Sequence[Examples], drawn: DrawnSplits, pool: Pool) -> dict[str, Split]:
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
    backbone: Backbone,
) -> DataInfo:
    num_classes = len(dataset.class_names)
    majority = int(np.bincount(splits["train"].labels, minlength=num_classes).argmax())
    how, pool = backbone.preprocessing, splits["train"].pool
    described = {name: _describe_split(split, num_classes) for name, split in splits.items()}
    return DataInfo(
        fingerprint=dataset.fingerprint,
        class_names=dataset.class_names,
        splits=described,
        num_duplicates=num_duplicates,
        num_corrupt=dataset.num_corrupt,
        num_truncated=_sum_truncated(described.values()),
        corrupt=dataset.corrupt,
        majority_accuracy=float((splits["test"].labels == majority).mean()),
        image_size=how.image_size if isinstance(how, Preprocessing) else None,
        typical_length=pool.typical_length if isinstance(pool, SequenceRows) else None,
    )


def _sum_truncated(splits: Iterable[SplitInfo]) -> int | None:
    counts = [split.num_truncated for split in splits]
    return None if None in counts else sum(count or 0 for count in counts)


def _describe_split(split: Split, num_classes: int) -> SplitInfo:
    counts = np.bincount(split.labels, minlength=num_classes)
    pool = split.pool
    truncated = int(pool.truncated[split.rows].sum()) if isinstance(pool, SequenceRows) else None
    return SplitInfo(
        num_examples=len(split),
        class_counts=tuple(counts.tolist()),
        ids_digest=split.ids_digest,
        num_truncated=truncated,
    )
