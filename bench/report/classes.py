"""What the splits of each dataset hold, class by class, for the report; knows no HTML."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.record import DataInfo, Record

_MOST_CLASSES = 1000
_OPEN_CLASSES = 20


@dataclass(frozen=True)
class ClassTable:
    """Examples per class and split of one dataset, in the order of the class indices.

    Attributes:
        splits: Names of the splits there are: train, val, test.
        totals: Examples per split.
        rows: Name of a class and its examples per split; at most 1,000 classes.
        num_classes: How many there are.
        ratio: Examples of the largest class of train over those of the smallest; None where a
            class has no train example.
        seed: Of the cell it was read from: seeds draw val and, with few shots, train.
    """

    dataset: str
    splits: tuple[str, ...]
    totals: tuple[int, ...]
    rows: tuple[tuple[str, tuple[int, ...]], ...]
    num_classes: int
    ratio: float | None
    seed: int

    @property
    def is_long(self) -> bool:
        """Whether it is behind a click."""
        return self.num_classes > _OPEN_CLASSES

    @property
    def num_hidden(self) -> int:
        """Classes that have no row."""
        return self.num_classes - len(self.rows)


def class_tables(records: Iterable[Record]) -> list[ClassTable]:
    """Return one table per dataset, by its label; of several cells the one with most splits."""
    best: dict[str, Record] = {}
    for record in records:
        if record.data is None:
            continue
        label = record.cell.dataset.label
        held = best.get(label)
        if held is None or _num_splits(record) > _num_splits(held):
            best[label] = record
    return [
        _table(label, record.data, record.cell.seed)
        for label, record in sorted(best.items())
        if record.data is not None
    ]


def _num_splits(record: Record) -> int:
    return 0 if record.data is None else len(record.data.splits)


def _table(label: str, data: DataInfo, seed: int) -> ClassTable:
    splits = tuple(name for name in ("train", "val", "test") if name in data.splits)
    counts = [data.splits[name].class_counts for name in splits]
    rows = zip(data.class_names, zip(*counts, strict=True), strict=True)
    return ClassTable(
        dataset=label,
        splits=splits,
        totals=tuple(data.splits[name].num_examples for name in splits),
        rows=tuple(rows)[:_MOST_CLASSES],
        num_classes=len(data.class_names),
        ratio=_ratio(counts[0]) if splits[:1] == ("train",) else None,
        seed=seed,
    )


def _ratio(counts: Sequence[int]) -> float | None:
    return max(counts) / min(counts) if counts and min(counts) else None
