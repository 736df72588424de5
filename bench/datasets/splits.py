"""Labels -> train, val and test, drawn from seeds and nothing else; knows no image and no file.

The protocol, where the source or the request leaves a choice open:

- Test is the source's own, or a stratified 20% of the whole drawn from the split seed alone.
- Val is the source's own, or a stratified 20% of train drawn from the seed.
- ``train_examples: n`` draws n from train and val together: 80% train, 20% val. ``shots: k`` draws
  k a class for train and up to k more a class for val. Both set the source's own val aside.
- ``folds: k`` parts train and val of the source into k stratified folds, drawn from the split seed
  alone. A cell is tested on one of them and trains on the others, of which val is 20% again. A
  source with a test part of its own is refused: it has what folds are for.
- For one seed the few are among the many: 5 shots hold the 1 shot, and so on. Of ``train_examples``
  the fewer are so up to a few examples, where rounding gives a class one less of more.
- Train does not depend on whether a strategy needs val, so that strategies compare on equal data.
- Every class has an example in train and in test. A class without one is an error that names it.
- Sizes are exact: largest remainders decide which classes get the odd examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.datasets.parts import PART_ORDER
from bench.errors import DatasetError

TEST_FRACTION = 0.2
VAL_FRACTION = 0.2


@dataclass(frozen=True)
class SplitRequest:
    """What decides the splits of a cell, beside the data.

    Attributes:
        split_seed: Draws the test split, the same for every seed.
        seed: Draws val and the sample.
        needs_val: Whether anything will be chosen; without it val is None, train is the same.
        train_examples: Size of train and val together; None takes all.
        shots: Train examples per class; None takes all.
        folds: How many; None has one test split.
        fold: Which of them is the test split, from 0.
    """

    split_seed: int
    seed: int
    needs_val: bool
    train_examples: int | None = None
    shots: int | None = None
    folds: int | None = None
    fold: int = 0


@dataclass(frozen=True)
class DrawnSplits:
    """Rows of each split in the parts laid end to end, ascending, int64, disjoint."""

    train: np.ndarray
    val: np.ndarray | None
    test: np.ndarray

    def items(self) -> tuple[tuple[str, np.ndarray], ...]:
        """Return the splits there are, by name, in the order train, val, test."""
        pairs = (("train", self.train), ("val", self.val), ("test", self.test))
        return tuple((name, rows) for name, rows in pairs if rows is not None)


def draw_splits(
    labels: Mapping[str, np.ndarray], class_names: Sequence[str], request: SplitRequest
) -> DrawnSplits:
    """Return the rows of train, val and test as the protocol above has them.

    Args:
        labels: Class indices by part: ``train``, and ``val`` and ``test`` where the source has
            them; rows count through train, val, test in this order.
        class_names: For messages, in the order of the class indices.
        request: Seeds and sizes.

    Raises:
        DatasetError: A class or the whole has too few examples; says how many and how many it
            takes.
    """
    drawer = _Drawer(labels, class_names, request)
    train, val, test = drawer.official() if request.folds is None else drawer.fold(request.folds)
    drawer.require(test, 1, "test")
    if request.shots is not None:
        train, val = drawer.draw_shots(np.union1d(train, val), request.shots)
    elif request.train_examples is not None:
        train, val = drawer.draw_sample(np.union1d(train, val), request.train_examples)
    elif not len(val):
        drawer.require(train, 1, "train")
        train, val = drawer.draw_val(train)
    return drawer.finish(train, val, test)


def complete_splits(
    given: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    request: SplitRequest,
) -> DrawnSplits:
    """Return splits whose rows are given; a val that is not is drawn from train as ever.

    Args:
        given: Rows of ``train`` and ``test``, and of ``val`` where it is given, be it empty.
        labels: As for `draw_splits`.
        class_names: For messages, in the order of the class indices.
        request: Its seed draws val; sizes and folds play no part.

    Raises:
        DatasetError: As `draw_splits`.
    """
    drawer = _Drawer(labels, class_names, request)
    train, test = np.sort(given["train"]), np.sort(given["test"])
    drawer.require(test, 1, "test")
    drawer.require(train, 1, "train")
    if "val" in given:
        return drawer.finish(train, np.sort(given["val"]), test)
    return drawer.finish(*drawer.draw_val(train), test)


class _Drawer:
    """The steps of one drawing; each returns rows in ascending order."""

    def __init__(
        self, labels: Mapping[str, np.ndarray], class_names: Sequence[str], request: SplitRequest
    ) -> None:
        self._parts = [np.asarray(labels.get(part, ()), dtype=np.int64) for part in PART_ORDER]
        self._labels = np.concatenate(self._parts)
        self._names = class_names
        self._request = request

    def official(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return train, val and test of the source; test is drawn if it has none, val is not."""
        starts = np.cumsum([0, *(len(part) for part in self._parts)])
        train, val, test = (np.arange(starts[i], starts[i + 1]) for i in range(3))
        if len(test):
            return train, val, test
        whole = np.union1d(train, val)
        self.require(whole, 2, "train and test")
        counts = self._counts(whole)
        size = max(_share(len(whole), TEST_FRACTION), len(counts))
        quotas = allocate(counts, size, floor=np.ones_like(counts), ceiling=counts - 1)
        test, rest = self._take(whole, [quotas], "test", self._request.split_seed)
        return np.intersect1d(train, rest), np.intersect1d(val, rest), test

    def fold(self, folds: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return all other folds as train, an empty val, and the fold asked for as test.

        Rows are dealt out to the folds in turn, class after class and at random within a class, so
        that sizes differ by one at most, of folds and of each class in them.
        """
        train, val, test = self._parts
        if len(test):
            raise DatasetError(
                f"folds: {folds} asked, but the data has a test split of its own, of {len(test)} "
                "examples. Leave folds out to be tested on it."
            )
        whole = np.arange(len(train) + len(val))
        self.require(whole, folds, f"folds: {folds}")
        priority = _generator("folds", self._request.split_seed).random(len(whole))
        dealt = np.empty(len(whole), dtype=np.int64)
        dealt[np.lexsort((priority, self._labels[whole]))] = whole % folds
        held = dealt == self._request.fold
        return whole[~held], whole[:0], whole[held]

    def finish(self, train: np.ndarray, val: np.ndarray, test: np.ndarray) -> DrawnSplits:
        """Return the splits once train has every class, and val an example where it is used."""
        self.require(train, 1, "train")
        needs_val = self._request.needs_val
        if needs_val and not len(val):
            raise DatasetError(
                f"no example is left for val beside the {len(train)} of train, and this strategy "
                "chooses on val or is fitted again with it. Ask for fewer train examples or shots, "
                "or give a fixed setting."
            )
        return DrawnSplits(train=train, val=val if needs_val else None, test=test)

    def draw_val(self, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return train without a stratified share, and that share as val."""
        counts = self._counts(train)
        size = min(_share(len(train), VAL_FRACTION), int((counts - 1).sum()))
        quotas = allocate(counts, size, floor=np.zeros_like(counts), ceiling=counts - 1)
        val, rest = self._take(train, [quotas], "val", self._request.seed)
        return rest, val

    def draw_sample(self, pool: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Return 80% and 20% of a stratified sample; every class is in the 80%."""
        val_size = _share(size, VAL_FRACTION)
        counts = self._counts(pool)
        if size > len(pool):
            raise DatasetError(
                f"train_examples: {size} asked, {len(pool)} available beside the test split. "
                "Lower it, or leave it out to take all."
            )
        self.require(pool, 1, "train")
        if size - val_size < len(counts):
            raise DatasetError(
                f"train_examples: {size} leaves {size - val_size} for train, fewer than the "
                f"{len(counts)} classes. Raise it, or use shots."
            )
        sample = allocate(counts, size, floor=np.ones_like(counts), ceiling=counts)
        val = allocate(sample, val_size, floor=np.zeros_like(counts), ceiling=sample - 1)
        train_rows, val_rows, _ = self._take(
            pool, [sample - val, val], "sample", self._request.seed
        )
        return train_rows, val_rows

    def draw_shots(self, pool: np.ndarray, shots: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ``shots`` a class, and up to as many more a class of what is left."""
        self.require(pool, shots, f"shots: {shots}")
        counts = self._counts(pool)
        more = np.minimum(counts - shots, shots)
        train, val, _ = self._take(
            pool, [np.full_like(counts, shots), more], "sample", self._request.seed
        )
        return train, val

    def require(self, rows: np.ndarray, least: int, what: str) -> None:
        """Refuse classes with fewer examples than asked."""
        counts = self._counts(rows)
        short = np.flatnonzero(counts < least)
        if not len(short):
            return
        first = int(short[0])
        others = f" ({len(short) - 1} more classes are short too)" if len(short) > 1 else ""
        raise DatasetError(
            f"class '{self._names[first]}' has {counts[first]} examples for {what}, "
            f"{least} needed{others}. Add examples, ask for fewer, or leave the class out."
        )

    def _counts(self, rows: np.ndarray) -> np.ndarray:
        return np.bincount(self._labels[rows], minlength=len(self._names))

    def _take(
        self, rows: np.ndarray, quotas: Sequence[np.ndarray], purpose: str, seed: int
    ) -> list[np.ndarray]:
        """Return consecutive slices of each class in random order, then what is left."""
        labels = self._labels[rows]
        priority = _generator(purpose, seed).random(len(rows))
        order = np.lexsort((priority, labels))
        starts = np.cumsum(self._counts(rows)) - self._counts(rows)
        rank = np.empty(len(rows), dtype=np.int64)
        rank[order] = np.arange(len(rows)) - starts[labels[order]]
        taken, lower = [], np.zeros_like(starts)
        for quota in quotas:
            taken.append(rows[(rank >= lower[labels]) & (rank < (lower + quota)[labels])])
            lower = lower + quota
        return [*taken, rows[rank >= lower[labels]]]


def allocate(
    counts: np.ndarray, size: int, *, floor: np.ndarray, ceiling: np.ndarray
) -> np.ndarray:
    """Return how many of each class make a stratified sample of exactly ``size``.

    Proportional to the counts, rounded by largest remainder within the bounds; ties go to the
    earlier class.

    Args:
        counts: Examples per class, shape (K,).
        size: Of the sample, between the sums of the bounds.
        floor: Least per class, shape (K,).
        ceiling: Most per class, shape (K,).
    """
    exact = counts * (size / max(1, int(counts.sum())))
    quotas: np.ndarray = np.clip(np.floor(exact).astype(np.int64), floor, ceiling)
    while (missing := size - int(quotas.sum())) != 0:
        step = 1 if missing > 0 else -1
        room = quotas < ceiling if step > 0 else quotas > floor
        need = np.where(room, (exact - quotas) * step, -np.inf)
        chosen = np.argsort(-need, kind="stable")[: min(abs(missing), int(room.sum()))]
        quotas[chosen] += step
    return quotas


def count_duplicates(contents: Sequence[str], splits: DrawnSplits) -> int:
    """Return how many examples of val or test have content that an earlier split holds too.

    Args:
        contents: Digest per row.
        splits: Rows of each split.
    """
    seen: set[str] = set()
    duplicates = 0
    for _, rows in splits.items():
        digests = [contents[row] for row in rows]
        duplicates += sum(digest in seen for digest in digests)
        seen.update(digests)
    return duplicates


def _share(size: int, fraction: float) -> int:
    """Return a share of a number of examples, halves rounded up."""
    return int(size * fraction + 0.5)


def _generator(purpose: str, seed: int) -> np.random.Generator:
    """Return a stream of its own for each purpose, so that drawings do not echo each other."""
    return np.random.default_rng(np.random.SeedSequence([*purpose.encode(), seed]))
