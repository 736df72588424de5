"""The accuracy over seeds and examples against scipy's, a real bootstrap and a known truth."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats as reference

from bench.significance import (
    hierarchical_interval,
    mean_replicates,
    outcome_spread,
    resample_weights,
)


def _drawn(
    num_seeds: int, num_examples: int, *, spread: float, agree: float = 0.7, seed: int = 0
) -> NDArray[np.bool_]:
    """Return outcomes whose accuracy over all seeds and examples is 0.9.

    An example is wrong where its hardness, a seed's luck and noise exceed a bound.

    Args:
        num_seeds: S.
        num_examples: N.
        spread: Standard deviation of a seed's luck.
        agree: Share of the variance within a seed that an example has for all seeds alike.
        seed: Of the generator.
    """
    rng = np.random.default_rng(seed)
    hardness = np.sqrt(agree) * rng.normal(size=num_examples)
    noise = np.sqrt(1 - agree) * rng.normal(size=(num_seeds, num_examples))
    luck = spread * rng.normal(size=(num_seeds, 1))
    return hardness + noise + luck < reference.norm.ppf(0.9) * np.hypot(1, spread)


def _width(correct: NDArray[np.bool_]) -> float:
    interval = hierarchical_interval(outcome_spread(correct))
    return interval.high - interval.low


def test_the_variance_is_that_of_seeds_and_examples_drawn_with_replacement() -> None:
    correct = _drawn(4, 150, spread=0.5)
    of_examples = resample_weights(150, 20_000, seed=1)
    of_seeds = resample_weights(4, 20_000, seed=2) / 4
    # The same examples for every seed: the table is drawn by rows and by columns.
    means = (mean_replicates(correct.astype(float), of_examples) * of_seeds).sum(axis=0)
    spread = outcome_spread(correct)
    assert spread.bootstrap_variance == pytest.approx(means.var(), rel=0.03)


def test_of_one_seed_the_variance_is_scipys_bootstrap() -> None:
    correct = _drawn(1, 300, spread=0.0)
    drawn = reference.bootstrap(
        (correct[0],), np.mean, n_resamples=20_000, method="percentile", rng=0
    )
    error = np.sqrt(outcome_spread(correct).bootstrap_variance)
    assert error == pytest.approx(drawn.standard_error, rel=0.03)
    assert error == pytest.approx(np.sqrt(correct.mean() * (1 - correct.mean()) / 300))


def test_the_variance_of_two_seeds_that_differ_everywhere_is_known() -> None:
    """Two draws from the seeds' means 1 and 0: a variance of 1/4 each, so of 1/8."""
    spread = outcome_spread(np.array([[True] * 5, [False] * 5]))
    assert (spread.seeds, spread.examples, spread.noise) == (0.5, 0.0, 0.0)
    assert spread.bootstrap_variance == pytest.approx(1 / 8)


def test_the_sums_of_squares_are_those_of_a_crossed_analysis_of_variance() -> None:
    correct = _drawn(3, 40, spread=0.5).astype(float)
    residual = correct - correct.mean(axis=1, keepdims=True) - correct.mean(axis=0) + correct.mean()
    spread = outcome_spread(correct.astype(bool))
    assert spread.seeds == pytest.approx(correct.mean(axis=1).var() * 3)
    assert spread.examples == pytest.approx(correct.mean(axis=0).var() * 40)
    assert spread.noise == pytest.approx((residual**2).sum())


@pytest.mark.parametrize("num_correct", [0, 1, 37, 199, 200])
def test_one_seed_has_wilsons_interval(num_correct: int) -> None:
    interval = hierarchical_interval(outcome_spread(np.arange(200)[None, :] < num_correct))
    expected = reference.binomtest(num_correct, 200).proportion_ci(method="wilson")
    assert interval.low == pytest.approx(expected.low, abs=1e-9)
    assert interval.high == pytest.approx(expected.high, abs=1e-9)


@pytest.mark.parametrize("num_correct", [0, 300])
def test_seeds_without_a_mistake_or_a_hit_still_have_a_width(num_correct: int) -> None:
    correct = np.arange(300)[None, :].repeat(3, axis=0) < num_correct
    assert _width(correct) == pytest.approx(_width(correct[:1])) == pytest.approx(0.0126, abs=1e-4)


def test_one_mistake_of_one_seed_does_not_make_an_interval_of_many_test_sets() -> None:
    correct = np.ones((3, 300), dtype=bool)
    perfect = _width(correct)
    correct[0, 0] = False
    assert _width(correct) > perfect


def test_seeds_that_agree_on_every_example_are_one() -> None:
    one = _drawn(1, 500, spread=0.0)
    assert _width(one.repeat(5, axis=0)) == pytest.approx(_width(one))


def test_seeds_that_err_on_different_examples_narrow_the_interval() -> None:
    correct = _drawn(10, 500, spread=0.0, agree=0.2)
    assert _width(correct) < 0.75 * _width(correct[:1])


def test_two_seeds_far_apart_say_nearly_nothing() -> None:
    order = np.arange(1000)
    assert _width(np.stack([order < 600, order < 900])) > 0.9


def test_a_higher_level_gives_a_wider_interval() -> None:
    spread = outcome_spread(_drawn(3, 200, spread=0.1))
    narrow, wide = hierarchical_interval(spread, 0.8), hierarchical_interval(spread, 0.99)
    assert wide.low < narrow.low < spread.mean < narrow.high < wide.high


@pytest.mark.parametrize("num_examples", [200, 2000])
@pytest.mark.parametrize(
    ("num_seeds", "spread"), [(1, 0.0), (3, 0.0), (3, 0.05), (3, 0.2), (5, 0.0), (5, 0.2)]
)
def test_it_covers_the_truth_as_often_as_it_says(
    num_seeds: int, spread: float, num_examples: int
) -> None:
    covered = 0
    for trial in range(600):
        correct = _drawn(num_seeds, num_examples, spread=spread, seed=trial)
        interval = hierarchical_interval(outcome_spread(correct))
        covered += interval.low <= 0.9 <= interval.high
    assert covered / 600 >= 0.93
