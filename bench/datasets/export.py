"""The splits that a suite's cells have, as files to read or to fix them by; decodes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain, count

from bench.artifacts import ArtifactCache
from bench.datasets.drawing import Draw, split_dataset
from bench.datasets.parts import PART_ORDER
from bench.datasets.split_files import SplitDraw, SplitFile
from bench.datasets.splits import DrawnSplits
from bench.errors import DatasetError
from bench.interfaces import RawDataset
from bench.protocol import expand_folds
from bench.registry import dataset_source
from bench.spec import DatasetSpec


def export_splits(
    spec: DatasetSpec, *, split_seed: int, seeds: Sequence[int], cache: ArtifactCache
) -> SplitFile:
    """Return the splits of a dataset for every seed and fold.

    Val is that of strategies that choose on it, empty where no example is left for one.

    Args:
        spec: As a suite's cells have it.
        split_seed: Of the suite.
        seeds: Of the suite.
        cache: Holds digests of files.

    Raises:
        DatasetError: The data cannot be found, read or split as asked.
    """
    dataset = dataset_source(spec.name).load(spec, cache)
    ids = [id_ for part in PART_ORDER if part in dataset.parts for id_ in dataset.parts[part].ids]

    def draws() -> Iterator[SplitDraw]:
        for seed in seeds:
            for fold in expand_folds(spec):
                drawn = _with_val(dataset, spec, Draw(split_seed, seed, fold))
                named = {name: tuple(ids[row] for row in rows) for name, rows in drawn.items()}
                yield SplitDraw(seed=seed, fold=fold, **{"val": (), **named})

    return SplitFile(
        dataset=spec.name,
        fingerprint=dataset.fingerprint,
        split_seed=split_seed,
        draws=tuple(draws()),
    )


def _with_val(dataset: RawDataset, spec: DatasetSpec, draw: Draw) -> DrawnSplits:
    plain = split_dataset(dataset, spec, Draw(draw.split_seed, draw.seed, draw.fold, False))
    try:
        return split_dataset(dataset, spec, draw)
    except DatasetError:
        return plain  # One example of each class leaves none for val; some strategies need none.


def file_names(specs: Sequence[DatasetSpec]) -> list[str]:
    """Return a file name for each dataset, no two alike, with nothing in it but plain letters."""
    names: list[str] = []
    for spec in specs:
        stem = re.sub(r"[^A-Za-z0-9_.]+", "-", spec.label).strip("-.") or "dataset"
        numbered = (f"{stem}-{number}.json" for number in count(2))
        names.append(next(name for name in chain([f"{stem}.json"], numbered) if name not in names))
    return names
