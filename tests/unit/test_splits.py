"""Splits: sizes, classes and seeds, for any labels."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.datasets.parts import conflicting_request
from bench.datasets.splits import (
    DrawnSplits,
    SplitRequest,
    allocate,
    count_duplicates,
    draw_splits,
)
from bench.errors import DatasetError
from bench.spec import DatasetSpec

NAMES = ("ant", "bee", "cat", "dog", "elk", "fox")


def request(**changes: object) -> SplitRequest:
    values = {"split_seed": 0, "seed": 0, "needs_val": True, **changes}
    return SplitRequest(**values)  # type: ignore[arg-type]


def draw(
    labels: dict[str, np.ndarray] | np.ndarray, num_classes: int, **changes: object
) -> DrawnSplits:
    parts = labels if isinstance(labels, dict) else {"train": labels}
    return draw_splits(parts, NAMES[:num_classes], request(**changes))


def cycle(size: int, num_classes: int) -> np.ndarray:
    return np.arange(size) % num_classes


@st.composite
def labelled(draw_: st.DrawFn, least: int = 4) -> tuple[np.ndarray, int]:
    counts = draw_(st.lists(st.integers(least, 60), min_size=2, max_size=len(NAMES)))
    labels = np.repeat(np.arange(len(counts)), counts)
    order = np.random.default_rng(draw_(st.integers(0, 99))).permutation(len(labels))
    return labels[order], len(counts)


@given(labelled(), st.integers(0, 5), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_drawn_splits_are_disjoint_whole_and_hold_every_class(
    data: tuple[np.ndarray, int], split_seed: int, seed: int
) -> None:
    labels, num_classes = data
    splits = draw(labels, num_classes, split_seed=split_seed, seed=seed)
    assert splits.val is not None
    together = np.concatenate([splits.train, splits.val, splits.test])
    assert sorted(together.tolist()) == list(range(len(labels)))
    assert len(splits.test) == max(int(0.2 * len(labels) + 0.5), num_classes)
    assert len(splits.val) == int(0.2 * (len(labels) - len(splits.test)) + 0.5)
    for rows in (splits.train, splits.test):
        assert set(labels[rows]) == set(range(num_classes))


@given(labelled(), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_test_is_the_same_for_every_seed_and_sample(
    data: tuple[np.ndarray, int], split_seed: int
) -> None:
    labels, num_classes = data
    cells = [{"seed": 0}, {"seed": 7}, {"seed": 1, "shots": 2}, {"needs_val": False}]
    tests = [draw(labels, num_classes, split_seed=split_seed, **cell).test for cell in cells]
    assert all((test == tests[0]).all() for test in tests)


@given(labelled(), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_the_same_request_draws_the_same_rows(data: tuple[np.ndarray, int], seed: int) -> None:
    labels, num_classes = data
    first, second = (draw(labels, num_classes, seed=seed) for _ in range(2))
    for (_, one), (_, other) in zip(first.items(), second.items(), strict=True):
        assert one.tolist() == other.tolist()


@given(labelled(), st.data())
@settings(max_examples=60, deadline=None)
def test_train_examples_gives_exactly_80_and_20_percent(
    data: tuple[np.ndarray, int], choose: st.DataObject
) -> None:
    labels, num_classes = data
    pool = len(labels) - max(int(0.2 * len(labels) + 0.5), num_classes)
    size = choose.draw(st.integers(min(pool, 2 * num_classes), pool))
    splits = draw(labels, num_classes, train_examples=size)
    assert splits.val is not None
    assert len(splits.val) == int(0.2 * size + 0.5)
    assert len(splits.train) + len(splits.val) == size
    assert set(labels[splits.train]) == set(range(num_classes))
    assert not set(splits.train) & set(splits.val)
    assert not set(splits.test) & (set(splits.train) | set(splits.val))


@given(labelled(least=8), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_shots_are_exact_per_class_and_val_takes_up_to_as_many(
    data: tuple[np.ndarray, int], shots: int
) -> None:
    labels, num_classes = data
    splits = draw(labels, num_classes, shots=shots)
    assert np.bincount(labels[splits.train]).tolist() == [shots] * num_classes
    assert splits.val is not None
    left = np.bincount(labels) - np.bincount(labels[splits.test]) - shots
    assert np.bincount(labels[splits.val], minlength=num_classes).tolist() == (
        np.minimum(left, shots).tolist()
    )


def test_the_few_are_among_the_many_for_one_seed() -> None:
    labels = cycle(300, 5)
    for key, sizes in (("shots", (1, 5, 20)), ("train_examples", (50, 100, 200))):
        trains = [set(draw(labels, 5, **{key: size}).train.tolist()) for size in sizes]
        assert trains[0] < trains[1] < trains[2]


def test_seeds_draw_other_vals_and_samples() -> None:
    labels = cycle(300, 5)
    for changes in ({}, {"shots": 5}, {"train_examples": 100}):
        one, other = (draw(labels, 5, seed=seed, **changes) for seed in (0, 1))
        assert one.train.tolist() != other.train.tolist()
    tests = [draw(labels, 5, split_seed=seed).test.tolist() for seed in (0, 1)]
    assert tests[0] != tests[1]


def test_train_does_not_depend_on_whether_val_is_needed() -> None:
    labels = cycle(300, 5)
    for changes in ({}, {"shots": 5}, {"train_examples": 100}):
        with_val, without = (draw(labels, 5, needs_val=need, **changes) for need in (True, False))
        assert with_val.train.tolist() == without.train.tolist()
        assert without.val is None
        assert [name for name, _ in without.items()] == ["train", "test"]


def test_parts_of_the_source_are_kept() -> None:
    parts = {"train": cycle(30, 3), "val": cycle(12, 3), "test": cycle(9, 3)}
    splits = draw(parts, 3)
    assert splits.train.tolist() == list(range(30))
    assert splits.val is not None and splits.val.tolist() == list(range(30, 42))
    assert splits.test.tolist() == list(range(42, 51))


def test_a_sample_is_drawn_from_train_and_val_of_the_source_together() -> None:
    parts = {"train": cycle(30, 3), "val": cycle(30, 3), "test": cycle(9, 3)}
    splits = draw(parts, 3, train_examples=60)
    assert splits.val is not None
    assert (len(splits.train), len(splits.val)) == (48, 12)
    assert splits.test.tolist() == list(range(60, 69))


def test_a_missing_test_is_20_percent_of_train_and_val_together() -> None:
    splits = draw({"train": cycle(60, 3), "val": cycle(40, 2)}, 3)
    assert len(splits.test) == 20
    assert splits.val is not None
    assert len(splits.train) + len(splits.val) == 80
    assert splits.train.max() < 60 <= splits.val.min()


def test_allocation_follows_largest_remainders_within_bounds() -> None:
    counts = np.array([50, 30, 20, 3])
    none, ones = np.zeros(4, dtype=int), np.ones(4, dtype=int)
    assert allocate(counts, 10, floor=none, ceiling=counts).tolist() == [5, 3, 2, 0]
    assert allocate(counts, 10, floor=ones, ceiling=counts).tolist() == [4, 3, 2, 1]
    assert allocate(counts, 103, floor=none, ceiling=counts).tolist() == counts.tolist()
    assert allocate(np.array([5, 5, 5]), 4, floor=none[:3], ceiling=ones[:3] * 5).tolist() == [
        2,
        1,
        1,
    ]


@pytest.mark.parametrize(
    ("labels", "changes", "message"),
    [
        (
            {"train": np.array([0, 0, 0, 0, 1])},
            {},
            "class 'bee' has 1 examples for train and test, 2 needed. Add examples",
        ),
        (
            {"train": cycle(10, 2), "test": np.zeros(4)},
            {},
            "class 'bee' has 0 examples for test, 1 needed",
        ),
        (
            {"train": np.zeros(10), "val": cycle(10, 2), "test": cycle(4, 2)},
            {},
            "class 'bee' has 0 examples for train, 1 needed",
        ),
        (
            {"train": np.zeros(10), "test": cycle(4, 2)},
            {},
            "class 'bee' has 0 examples for train, 1 needed",
        ),
        (
            {"train": cycle(10, 2), "test": cycle(4, 2)},
            {"shots": 6},
            "class 'ant' has 5 examples for shots: 6, 6 needed (1 more classes are short too)",
        ),
        (
            {"train": cycle(10, 2), "test": cycle(4, 2)},
            {"train_examples": 11},
            "train_examples: 11 asked, 10 available beside the test split",
        ),
        (
            {"train": cycle(12, 6), "test": cycle(12, 6)},
            {"train_examples": 6},
            "train_examples: 6 leaves 5 for train, fewer than the 6 classes",
        ),
        (
            {"train": cycle(10, 2), "test": cycle(4, 2)},
            {"shots": 5},
            "no example is left for val beside the 10 of train",
        ),
    ],
)
def test_too_few_examples_are_told_with_numbers(
    labels: dict[str, np.ndarray], changes: dict[str, int], message: str
) -> None:
    num_classes = int(max(part.max() for part in labels.values())) + 1
    with pytest.raises(DatasetError, match=re.escape(message)):
        draw(labels, num_classes, **changes)


def test_all_examples_as_shots_are_fine_when_nothing_is_chosen() -> None:
    splits = draw({"train": cycle(10, 2), "test": cycle(4, 2)}, 2, shots=5, needs_val=False)
    assert len(splits.train) == 10


def test_duplicates_count_later_splits_against_earlier_ones() -> None:
    splits = DrawnSplits(np.array([0, 1]), np.array([2, 3]), np.array([4, 5, 6]))
    assert count_duplicates(["a", "a", "a", "b", "b", "a", "c"], splits) == 3
    without_val = DrawnSplits(np.array([0, 1]), None, np.array([4, 5, 6]))
    assert count_duplicates(["a", "a", "a", "b", "b", "a", "c"], without_val) == 1


def test_train_examples_and_shots_exclude_each_other() -> None:
    spec = DatasetSpec(name="digits", train_examples=100, shots=5)
    assert conflicting_request(spec) == (
        "train_examples and shots both set the size of train: keep one of them"
    )
    assert conflicting_request(DatasetSpec(name="digits", shots=5)) is None


@given(labelled(least=6), st.integers(2, 6), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_every_example_is_tested_in_one_fold_and_folds_are_alike(
    data: tuple[np.ndarray, int], folds: int, split_seed: int
) -> None:
    labels, num_classes = data
    every = [
        draw(labels, num_classes, folds=folds, fold=fold, split_seed=split_seed, seed=3)
        for fold in range(folds)
    ]
    tested = np.concatenate([splits.test for splits in every])
    assert sorted(tested.tolist()) == list(range(len(labels)))
    for splits in every:
        assert splits.val is not None
        together = np.concatenate([splits.train, splits.val, splits.test])
        assert sorted(together.tolist()) == list(range(len(labels)))
    counts = np.array([np.bincount(labels[s.test], minlength=num_classes) for s in every])
    assert np.ptp(counts, axis=0).max() <= 1 and np.ptp(counts.sum(axis=1)) <= 1


def test_folds_are_of_the_split_seed_and_val_of_the_seed() -> None:
    labels = cycle(60, 3)

    def drawn(**changes: object) -> DrawnSplits:
        return draw(labels, 3, folds=5, fold=2, **changes)

    first, seed, split_seed = drawn(), drawn(seed=1), drawn(split_seed=1)
    assert first.val is not None and seed.val is not None
    np.testing.assert_array_equal(first.test, seed.test)
    assert first.val.tolist() != seed.val.tolist()
    assert first.test.tolist() != split_seed.test.tolist()


def test_folds_set_the_val_of_the_source_aside() -> None:
    parts = {"train": cycle(40, 2), "val": cycle(20, 2)}
    tested = [draw(parts, 2, folds=3, fold=fold).test for fold in range(3)]
    assert sorted(np.concatenate(tested).tolist()) == list(range(60))


def test_folds_draw_shots_and_samples_from_the_other_folds() -> None:
    found = draw(cycle(60, 3), 3, folds=5, fold=1, shots=2)
    assert np.bincount(found.train % 3).tolist() == [2, 2, 2]
    assert not set(found.train.tolist()) & set(found.test.tolist())


def test_folds_of_data_with_a_test_split_of_its_own_are_refused() -> None:
    with pytest.raises(DatasetError) as caught:
        draw({"train": cycle(20, 2), "test": cycle(8, 2)}, 2, folds=5)
    assert str(caught.value) == (
        "folds: 5 asked, but the data has a test split of its own, of 8 examples. Leave folds out "
        "to be tested on it."
    )


def test_a_class_with_fewer_examples_than_folds_is_named() -> None:
    with pytest.raises(DatasetError) as caught:
        draw(np.array([0] * 9 + [1] * 3), 2, folds=5)
    assert str(caught.value) == (
        "class 'bee' has 3 examples for folds: 5, 5 needed. Add examples, ask for fewer, or leave "
        "the class out."
    )
