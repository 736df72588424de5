"""A loaded dataset and what is asked of it -> its splits, drawn or from a file; decodes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.datasets.parts import PART_ORDER, conflicting_request
from bench.datasets.split_files import find_rows, read_split_file
from bench.datasets.splits import (
    DrawnSplits,
    SplitRequest,
    complete_splits,
    draw_splits,
)
from bench.errors import DatasetError
from bench.interfaces import RawDataset
from bench.spec import DatasetSpec


@dataclass(frozen=True)
class Draw:
    """Which of the drawings of a dataset a cell has.

    Attributes:
        split_seed: Draws the test split, or the folds.
        seed: Draws val and samples.
        fold: Which fold is tested on; None where there are none.
        needs_val: Whether val is used: to choose on, or to fit again with.
    """

    split_seed: int
    seed: int
    fold: int | None = None
    needs_val: bool = True


def split_dataset(dataset: RawDataset, spec: DatasetSpec, draw: Draw) -> DrawnSplits:
    """Return the rows of train, val and test of a cell.

    Args:
        dataset: As its source loaded it.
        spec: With ``shots`` as one number; a list of them is for the plan to expand.
        draw: Seeds and fold.

    Raises:
        DatasetError: What is asked contradicts itself, the data does not allow it, or the file of
            splits does not fit the data.
    """
    request = _split_request(spec, draw)
    try:
        if spec.splits is None:
            labels = {part: examples.labels for part, examples in dataset.parts.items()}
            return draw_splits(labels, dataset.class_names, request)
        return _fixed_splits(dataset, spec, request)
    except DatasetError as error:
        raise DatasetError(f"{spec.label}: {error}") from error


def _split_request(spec: DatasetSpec, draw: Draw) -> SplitRequest:
    if problem := conflicting_request(spec):
        raise DatasetError(f"{spec.name}: {problem}.")
    if isinstance(spec.shots, tuple):
        raise DatasetError(f"{spec.name}: a cell has one number of shots, got {list(spec.shots)}.")
    if (spec.folds is None) != (draw.fold is None) or (draw.fold or 0) >= (spec.folds or 1):
        raise DatasetError(f"{spec.label}: a cell has one of the folds, got fold {draw.fold}.")
    return SplitRequest(
        split_seed=draw.split_seed,
        seed=draw.seed,
        needs_val=draw.needs_val,
        train_examples=spec.train_examples,
        shots=spec.shots,
        folds=spec.folds,
        fold=draw.fold or 0,
    )


def _fixed_splits(dataset: RawDataset, spec: DatasetSpec, request: SplitRequest) -> DrawnSplits:
    assert spec.splits is not None
    path = Path(spec.splits).expanduser()
    file = read_split_file(path)
    if file.fingerprint not in (None, dataset.fingerprint):
        raise DatasetError(
            f"{path} is of other data: its fingerprint is {str(file.fingerprint)[:12]}, that of "
            f"the data {dataset.fingerprint[:12]}. Export the splits again, or remove the "
            "fingerprint from the file if its ids still mean the same."
        )
    fold = None if request.folds is None else request.fold
    draw = file.draw_of(path, request.seed, fold)
    if request.folds is not None:
        file.require_folds(path, request.seed, request.folds)
    parts = [dataset.parts[part] for part in PART_ORDER if part in dataset.parts]
    places = {id_: row for row, id_ in enumerate(id_ for part in parts for id_ in part.ids)}
    given = find_rows(path, draw, places)
    labels = {part: examples.labels for part, examples in dataset.parts.items()}
    try:
        return complete_splits(given, labels, dataset.class_names, request)
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from error
