"""Intervals against scipy's and against simulated seeds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference

from bench.errors import UsageError
from bench.stats import accuracy_interval, student_quantile


@given(st.integers(1, 5000), st.data())
def test_one_seed_gives_wilsons_interval(total: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, total))
    interval = accuracy_interval([correct], [total])
    expected = reference.binomtest(correct, total).proportion_ci(method="wilson")
    assert interval.low == pytest.approx(expected.low, abs=1e-9)
    assert interval.high == pytest.approx(expected.high, abs=1e-9)


def test_a_perfect_score_has_an_interval_with_width() -> None:
    interval = accuracy_interval([100, 100], [100, 100])
    assert interval.high == 1.0
    assert interval.low == pytest.approx(0.963, abs=1e-3)


def test_seeds_that_agree_do_not_narrow_the_interval_of_one() -> None:
    assert accuracy_interval([850] * 5, [1000] * 5) == accuracy_interval([850], [1000])


def test_seeds_that_differ_widen_it() -> None:
    close = accuracy_interval([850, 852, 848], [1000] * 3)
    far = accuracy_interval([900, 850, 800], [1000] * 3)
    assert far.high - far.low > 2 * (close.high - close.low)


def test_two_seeds_far_apart_say_nearly_nothing() -> None:
    interval = accuracy_interval([600, 900], [1000, 1000])
    assert interval.high - interval.low > 0.9


def test_a_higher_level_gives_a_wider_interval() -> None:
    narrow = accuracy_interval([850, 870], [1000, 1000], level=0.8)
    wide = accuracy_interval([850, 870], [1000, 1000], level=0.99)
    assert wide.low < narrow.low and narrow.high < wide.high


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6))
def test_it_lies_in_the_unit_interval_and_holds_the_mean(correct: list[int]) -> None:
    interval = accuracy_interval(correct, [50] * len(correct))
    mean = sum(correct) / (50 * len(correct))
    assert 0 <= interval.low <= mean + 1e-12
    assert mean - 1e-12 <= interval.high <= 1


@pytest.mark.parametrize(("num_seeds", "spread"), [(1, 0.0), (3, 0.0), (3, 0.03), (5, 0.01)])
def test_it_covers_the_truth_about_as_often_as_it_says(num_seeds: int, spread: float) -> None:
    """Models share a test split: an example is easy or hard for all seeds alike."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(600):
        difficulty = rng.random(400)
        accuracy = np.clip(0.85 + spread * rng.normal(size=num_seeds), 0, 1)
        correct = (difficulty[None, :] < accuracy[:, None]).sum(axis=1).tolist()
        interval = accuracy_interval(correct, [400] * num_seeds)
        covered += interval.low <= 0.85 <= interval.high
    assert 0.92 <= covered / 600 <= 1.0


@pytest.mark.parametrize("freedom", [1, 1.5, 2, 3.7, 10, 200, 5e4, 1e6, 1e12])
@pytest.mark.parametrize("probability", [0.6, 0.9, 0.975, 0.9995])
def test_student_quantiles_are_scipys(freedom: float, probability: float) -> None:
    expected = reference.t.ppf(probability, freedom)
    assert student_quantile(probability, freedom) == pytest.approx(expected, rel=1e-7)


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(UsageError, match="got 2 of correct examples and 1 of all"):
        accuracy_interval([1, 2], [3])
    with pytest.raises(UsageError, match="one count per seed"):
        accuracy_interval([], [])


@pytest.mark.parametrize(("correct", "total"), [(5, 4), (-1, 4), (0, 0)])
def test_impossible_counts_are_refused(correct: int, total: int) -> None:
    with pytest.raises(UsageError, match=f"{correct} correct of {total} examples"):
        accuracy_interval([correct], [total])


def test_an_impossible_level_is_refused() -> None:
    with pytest.raises(UsageError, match=r"between 0 and 1, got 1\.0"):
        accuracy_interval([1], [2], level=1.0)
