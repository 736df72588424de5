"""Ranks and who is better against statsmodels' McNemar and in tables where nobody is better."""

import numpy as np
import pytest
from numpy.typing import NDArray
from statsmodels.stats.contingency_tables import mcnemar

from bench.significance import better_rows, rank_ends


def _better(correct: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return who is better among rows of outcomes, shape (K, S, N)."""
    return better_rows(np.packbits(correct, axis=2), correct.shape[2])


def _equal_rows(
    count: int, num_seeds: int, num_examples: int, *, spread: float, seed: int
) -> NDArray[np.bool_]:
    """Return rows that are equally good over all seeds and examples, at 0.9 of a lucky seed."""
    rng = np.random.default_rng(seed)
    hardness = np.sqrt(0.6) * rng.normal(size=num_examples)
    own = np.sqrt(0.2) * rng.normal(size=(count, 1, num_examples))
    noise = np.sqrt(0.2) * rng.normal(size=(count, num_seeds, num_examples))
    luck = spread * rng.normal(size=(count, num_seeds, 1))
    return hardness + own + noise + luck < 1.28


def test_two_rows_of_one_seed_are_told_apart_by_mcnemars_test() -> None:
    rng = np.random.default_rng(0)
    decided = 0
    for trial in range(90):
        hard = rng.normal(size=1501)
        shift = 0.3 * (trial % 3) / 2
        correct = np.stack([hard + 0.3 * rng.normal(size=1501) < 1 + shift * k for k in (0, 1)])
        first, second = correct
        table = [[0, (first & ~second).sum()], [(second & ~first).sum(), 0]]
        p = mcnemar(table, exact=False, correction=True).pvalue
        if 0.03 < p < 0.06:  # The critical value is drawn, and a few percent above 1.96.
            continue
        better = _better(correct[:, None, :])
        assert better.any() == (p < 0.05)
        assert better[1, 0] == (p < 0.05 and correct[1].sum() > correct[0].sum())
        decided += 1
    assert decided > 70


def test_few_differing_answers_tell_nothing() -> None:
    correct = np.ones((2, 1, 1000), dtype=bool)
    correct[1, 0, :5] = False
    assert not _better(correct).any()  # McNemar's exact p-value is 1/16.
    correct[1, 0, :8] = False
    assert _better(correct).tolist() == [[False, True], [False, False]]


def test_two_examples_are_too_few_however_they_fall() -> None:
    correct = np.array([[[True, True]], [[False, False]]])
    assert not _better(correct).any()


def test_rows_that_answer_alike_are_tied() -> None:
    correct = np.tile(np.arange(100) < 90, (3, 2, 1))
    ranks = rank_ends(_better(correct))
    assert (ranks.low.tolist(), ranks.high.tolist()) == ([1, 1, 1], [3, 3, 3])


def test_a_row_alone_is_better_than_none() -> None:
    ranks = rank_ends(_better(np.ones((1, 1, 10), dtype=bool)))
    assert (ranks.low.tolist(), ranks.high.tolist()) == ([1], [1])


def test_ranks_count_who_is_better_and_who_is_worse() -> None:
    better = np.zeros((4, 4), dtype=bool)
    better[0, 2] = better[0, 3] = better[1, 3] = True
    ranks = rank_ends(better)
    assert list(zip(ranks.low.tolist(), ranks.high.tolist(), strict=True)) == [
        (1, 2),
        (1, 3),
        (2, 4),
        (3, 4),
    ]


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_rows_far_apart_have_one_rank_each(num_seeds: int) -> None:
    rng = np.random.default_rng(1)
    bounds = np.array([0.5, 2.0, 1.0])[:, None, None]
    correct = rng.normal(size=2000) + 0.3 * rng.normal(size=(3, num_seeds, 2000)) < bounds
    ranks = rank_ends(_better(correct))
    assert (ranks.low.tolist(), ranks.high.tolist()) == ([3, 1, 2], [3, 1, 2])


def test_rows_on_shared_examples_are_told_apart_by_few_points() -> None:
    order = np.arange(1000)
    correct = np.stack([order < 900, order < 885])[:, None, :]
    assert _better(correct)[0, 1]


def test_the_order_of_rows_changes_nothing() -> None:
    correct = _equal_rows(6, 3, 700, spread=0.1, seed=3)
    correct[2] &= np.random.default_rng(0).random(700) < 0.5
    order = np.array([4, 2, 0, 5, 1, 3])
    straight, shuffled = _better(correct), _better(correct[order])
    assert straight.any()
    assert (straight[np.ix_(order, order)] == shuffled).all()


def test_a_difference_of_one_lucky_seed_is_not_taken_for_one_of_rows() -> None:
    order = np.arange(5000)
    steady = np.stack([order < 4000] * 3)
    lucky = np.stack([order < 4000, order < 4000, order < 4900])
    assert not _better(np.stack([lucky, steady])).any()
    # With the lucky seed alone one would say so.
    assert _better(np.stack([lucky[2:], steady[2:]]))[0, 1]


@pytest.mark.parametrize(
    ("count", "num_seeds", "spread"),
    [(2, 1, 0.0), (8, 1, 0.0), (2, 2, 0.2), (2, 3, 0.2), (8, 3, 0.0), (8, 3, 0.2), (8, 5, 0.05)],
)
def test_among_equal_rows_a_row_is_seldom_said_to_differ(
    count: int, num_seeds: int, spread: float
) -> None:
    trials, errors, named_best = 200, 0, 0
    for trial in range(trials):
        better = _better(_equal_rows(count, num_seeds, 400, spread=spread, seed=trial))
        errors += bool((better | better.T)[0].any())
        named_best += bool((better.sum(axis=1) == count - 1).any())
    # Nominal 5%, whose standard error is 1.5 points here.
    assert errors / trials <= 0.08
    assert named_best / trials <= 0.08


def test_it_is_not_so_careful_that_it_finds_nothing() -> None:
    """Eight rows, one of them better by 6 points at 1,000 examples: named best nearly always."""
    found = 0
    for trial in range(60):
        correct = _equal_rows(8, 1, 1000, spread=0.0, seed=trial)
        saved = np.random.default_rng(trial).random(1000) < 0.6
        correct[0, 0] |= saved
        found += bool((_better(correct)[0].sum()) == 7)
    assert found / 60 >= 0.9
