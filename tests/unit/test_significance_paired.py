"""Paired tests against scipy's, statsmodels' and scikit-learn's on the same data."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference
from sklearn.metrics import f1_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from bench.significance import (
    Noise,
    adjust_holm,
    detectable_effect,
    macro_f1,
    macro_f1_replicates,
    mean_replicates,
    paired_effect,
    paired_test,
    pool_spread,
    resample_weights,
    sample_factor,
    sign_flip_p,
    sum_by_class,
)
from bench.stats import student_two_sided


def correctness(rng, num_seeds, num_examples, lost=0.04, gained=0.02):
    """Seeds that agree on most examples, and a candidate that flips some."""
    base = np.tile(rng.random(num_examples) < 0.85, (num_seeds, 1))
    base ^= rng.random(base.shape) < 0.03
    draw = rng.random(base.shape)
    return base, np.where(base, draw >= lost, draw < gained)


@pytest.mark.parametrize("seed", range(8))
def test_one_seed_is_mcnemars_exact_test(seed):
    rng = np.random.default_rng(seed)
    base, candidate = correctness(rng, 1, int(rng.integers(20, 4000)))
    lost, gained = int((base & ~candidate).sum()), int((~base & candidate).sum())
    expected = mcnemar([[0, lost], [gained, 0]], exact=True).pvalue
    assert sign_flip_p(base, candidate) == pytest.approx(expected, rel=1e-9)


def test_many_discordant_examples_keep_the_far_tail():
    base = np.zeros((1, 5000), dtype=bool)
    base[:, :3000] = True
    candidate = ~base
    expected = reference.binomtest(3000, 5000).pvalue
    assert 0 < expected < 1e-40
    assert sign_flip_p(base, candidate) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("num_seeds", [1, 2, 3])
def test_several_seeds_are_every_flip_of_signs_counted(num_seeds):
    rng = np.random.default_rng(num_seeds)
    base, candidate = correctness(rng, num_seeds, 10, lost=0.5, gained=0.2)
    sums = (candidate.astype(int) - base).sum(axis=0)
    flips = np.array(list(itertools.product([-1, 1], repeat=10))) @ sums
    expected = (abs(flips) >= abs(sums.sum())).mean()
    assert sign_flip_p(base, candidate) == pytest.approx(expected, abs=1e-12)


def test_it_is_scipys_exact_permutation_test_of_paired_samples():
    rng = np.random.default_rng(4)
    base, candidate = correctness(rng, 3, 12, lost=0.5, gained=0.3)
    sums = (candidate.astype(int) - base).sum(axis=0)
    expected = reference.permutation_test(
        (sums,), np.sum, permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert sign_flip_p(base, candidate) == pytest.approx(expected, abs=1e-12)


def test_seeds_that_are_copies_say_no_more_than_one():
    base, candidate = correctness(np.random.default_rng(5), 1, 500)
    one = sign_flip_p(base, candidate)
    assert sign_flip_p(np.tile(base, (4, 1)), np.tile(candidate, (4, 1))) == pytest.approx(one)


def test_models_that_agree_everywhere_have_p_one():
    base = np.ones((2, 50), dtype=bool)
    assert sign_flip_p(base, base) == 1.0


def test_weights_are_samples_of_the_same_size_and_repeat_exactly():
    weights = resample_weights(40, 300, seed=7)
    assert weights.shape == (40, 300)
    assert (weights.sum(axis=0) == 40).all()
    assert np.array_equal(weights, resample_weights(40, 300, seed=7))
    assert not np.array_equal(weights, resample_weights(40, 300, seed=8))
    assert weights.var() == pytest.approx(1 - 1 / 40, rel=0.05)


def test_means_are_resampled_as_examples_drawn_one_by_one():
    rng = np.random.default_rng(0)
    values = rng.exponential(size=(3, 60)) + 50
    weights = resample_weights(60, 20, seed=1)
    replicates = mean_replicates(values, weights)
    for column in range(20):
        drawn = np.repeat(np.arange(60), weights[:, column].astype(int))
        assert replicates[:, column] == pytest.approx(values[:, drawn].mean(axis=1), abs=1e-6)


@settings(max_examples=40)
@given(st.integers(2, 12), st.integers(5, 80), st.integers(0, 10_000))
def test_macro_f1_is_scikit_learns_on_every_sample(num_classes, num_examples, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num_examples)
    wrong = rng.random(num_examples) < 0.4
    predicted = np.where(wrong, rng.integers(0, num_classes, num_examples), labels)
    weights = resample_weights(num_examples, 5, seed)
    support = sum_by_class(labels, weights, num_classes)
    whole = f1_score(labels, predicted, average="macro")
    assert macro_f1(labels, predicted) == pytest.approx(whole, abs=1e-12)
    replicates = macro_f1_replicates(labels, predicted, weights, support)
    for column in range(5):
        drawn = np.repeat(np.arange(num_examples), weights[:, column].astype(int))
        expected = f1_score(labels[drawn], predicted[drawn], average="macro")
        assert replicates[column] == pytest.approx(expected, abs=1e-6)


def sides_of(differences):
    """A baseline whose seeds agree, and a candidate with these differences to it."""
    return np.zeros_like(differences), differences


def nll_effect(rng, num_examples, shift, num_seeds=1):
    differences = rng.normal(shift, 0.5, size=(num_seeds, num_examples))
    weights = resample_weights(num_examples, 2000, seed=0)
    effect = paired_effect(
        sides_of(differences.mean(axis=1)),
        mean_replicates(differences, weights),
        num_examples=num_examples,
    )
    return effect, differences


def test_a_bootstrapped_mean_agrees_with_the_paired_t_test():
    effect, differences = nll_effect(np.random.default_rng(1), 800, 0.08)
    tested = paired_test(effect)
    expected = reference.ttest_1samp(differences[0], 0)
    interval = expected.confidence_interval(0.95)
    assert tested.p == pytest.approx(expected.pvalue, rel=0.3)
    assert (tested.low, tested.high) == pytest.approx((interval.low, interval.high), abs=0.003)
    assert tested.standard_error == pytest.approx(differences[0].std(ddof=1) / 800**0.5, rel=0.03)


def test_the_interval_is_scipys_paired_bootstrap_of_macro_f1():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 4, 300)
    first = np.where(rng.random(300) < 0.2, rng.integers(0, 4, 300), labels)
    second = np.where(rng.random(300) < 0.1, rng.integers(0, 4, 300), first)
    weights = resample_weights(300, 4000, seed=0)
    support = sum_by_class(labels, weights, 4)
    replicates = macro_f1_replicates(labels, second, weights, support)
    replicates = replicates - macro_f1_replicates(labels, first, weights, support)

    def macro_f1(truth, predicted):
        hits = np.bincount(truth[truth == predicted], minlength=4)
        return (2 * hits / (np.bincount(truth) + np.bincount(predicted))).mean()

    def difference(truth, one, two):
        return macro_f1(truth, two) - macro_f1(truth, one)

    estimate = np.array([difference(labels, first, second)])
    effect = paired_effect(sides_of(estimate), replicates[None], num_examples=300)
    tested = paired_test(effect)
    expected = reference.bootstrap(
        (labels, first, second),
        difference,
        paired=True,
        vectorized=False,
        n_resamples=3000,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    interval = expected.confidence_interval
    assert (tested.low, tested.high) == pytest.approx((interval.low, interval.high), abs=0.006)
    assert tested.standard_error == pytest.approx(expected.standard_error, rel=0.1)


def test_seeds_that_spread_no_more_than_their_examples_add_nothing():
    rng = np.random.default_rng(3)
    effects = [nll_effect(rng, 400, 0.0, num_seeds=3)[0] for _ in range(20)]
    assert pool_spread(effects).inflation < 1.5


def test_runs_that_spread_more_widen_the_test_of_every_cell():
    rng = np.random.default_rng(3)
    weights = resample_weights(400, 300, seed=0)
    effects = []
    for _ in range(100):
        differences = rng.normal(0, 0.5, size=(3, 400)) + rng.normal(0, 0.05, size=(3, 1))
        effects.append(
            paired_effect(
                sides_of(differences.mean(axis=1)),
                mean_replicates(differences, weights),
                num_examples=400,
            )
        )
    grid = pool_spread(effects)
    # A run adds 0.05^2 to the 0.5^2 / 400 of its examples: five times their variance in all.
    assert 3.5 < grid.inflation < 7
    plain, wide = paired_test(effects[0]), paired_test(effects[0], grid=grid)
    assert wide.standard_error > 1.3 * plain.standard_error
    assert wide.high - wide.low > 1.3 * (plain.high - plain.low)
    assert wide.p > plain.p


def seeded_effects(rng, *, own, shared, count=40):
    """Cells whose seeds spread by `shared` on both sides alike, and by `own` on each for itself."""
    weights = resample_weights(400, 200, seed=0)
    effects = []
    for _ in range(count):
        common = rng.normal(0, shared, size=3)
        before, after = (common + rng.normal(0, own, size=3) for _ in range(2))
        differences = rng.normal(0, 0.05, size=(3, 400))
        replicates = mean_replicates(differences - differences.mean(axis=1)[:, None], weights)
        effects.append(paired_effect((before, after), replicates, num_examples=400))
    return effects


def test_how_far_runs_repeat_is_read_from_the_grid():
    rng = np.random.default_rng(8)
    unrelated = pool_spread(seeded_effects(rng, own=0.03, shared=0.0), repeats=False)
    repeating = pool_spread(seeded_effects(rng, own=0.001, shared=0.03), repeats=False)
    assert unrelated.independence > 0.85
    assert repeating.independence < 0.15


def test_few_cells_that_may_not_repeat_count_as_unrelated_until_they_show_it():
    rng = np.random.default_rng(9)
    effects = seeded_effects(rng, own=0.001, shared=0.03)
    assert pool_spread(effects[:1]).independence == 0
    assert pool_spread(effects[:1], repeats=False).independence > 0.7
    assert pool_spread(effects, repeats=False).independence < 0.2
    assert pool_spread([], repeats=False).independence == 1.0


def test_seeds_that_happen_to_agree_are_judged_by_the_spread_between_seeds():
    """Three unrelated runs a side: the differences are alike by luck, the seeds are not."""
    rng = np.random.default_rng(10)
    effects = seeded_effects(rng, own=0.05, shared=0.0, count=400)
    grid = pool_spread(effects, repeats=False)
    plain = [paired_test(effect).p < 0.05 for effect in effects]
    wary = [paired_test(effect, grid=grid).p < 0.05 for effect in effects]
    assert np.mean(plain) > 0.3
    assert np.mean(wary) < 0.07


def test_a_candidate_whose_seeds_fly_apart_does_not_excuse_itself():
    weights = resample_weights(2000, 300, seed=0)
    replicates = mean_replicates(np.zeros((3, 2000)), weights)
    before, after = np.array([0.90, 0.91, 0.905]), np.array([0.90, 0.91, 0.3])
    effect = paired_effect((before, after), replicates, num_examples=2000)
    assert effect.spread == pytest.approx(9 * before.var(ddof=1))


def test_history_widens_the_test_of_a_single_seed():
    effect, _ = nll_effect(np.random.default_rng(1), 800, 0.08)
    plain = paired_test(effect)
    noisy = paired_test(effect, noise=Noise(sigma=0.05, freedom=20, assumed=False))
    assert plain.p < 0.01 < 0.2 < noisy.p
    assert noisy.standard_error == pytest.approx(0.05 * 2**0.5)
    assert noisy.freedom == pytest.approx(20, rel=0.5)
    assert noisy.sampling_share < 0.1


def test_less_noise_than_examples_explain_changes_nothing():
    effect, _ = nll_effect(np.random.default_rng(1), 800, 0.08)
    quiet = paired_test(effect, noise=Noise(sigma=1e-4, freedom=20, assumed=False))
    assert quiet == paired_test(effect)


def test_one_seed_that_collapses_is_found_though_the_others_did_not_change():
    rng = np.random.default_rng(6)
    base, candidate = correctness(rng, 3, 2000, lost=0.01, gained=0.05)
    candidate[0] &= rng.random(2000) < 0.4
    differences = candidate.astype(float) - base
    weights = resample_weights(2000, 1000, seed=0)
    effect = paired_effect(
        (base.mean(axis=1), candidate.mean(axis=1)),
        mean_replicates(differences, weights),
        num_examples=2000,
        exact_p=sign_flip_p(base, candidate),
    )
    assert effect.inflation > 100
    assert paired_test(effect).p < 1e-6


def test_no_difference_at_all_has_p_one_and_no_width():
    effect = paired_effect(sides_of(np.zeros(2)), np.zeros((2, 100)), num_examples=50, exact_p=1.0)
    tested = paired_test(effect)
    assert (tested.p, tested.low, tested.high, tested.standard_error) == (1.0, 0.0, 0.0, 0.0)


def test_the_same_loss_on_every_example_is_certain():
    effect = paired_effect(sides_of(np.full(1, 0.1)), np.full((1, 100), 0.1), num_examples=50)
    assert paired_test(effect).p == 0.0


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_adjusted_p_values_are_statsmodels_holm(count):
    p_values = np.random.default_rng(count).choice([0.0, 1e-6, 0.01, 0.01, 0.02, 0.5, 1.0], count)
    expected = multipletests(p_values, method="holm")[1]
    assert adjust_holm(p_values) == pytest.approx(expected, abs=1e-15)


def test_no_test_needs_no_adjustment():
    assert len(adjust_holm([])) == 0


@pytest.mark.parametrize(("alpha", "power"), [(0.05, 0.8), (0.001, 0.8), (0.05, 0.95)])
def test_what_is_detectable_has_the_power_that_statsmodels_gives_it(alpha, power):
    detectable = detectable_effect(1.0, 199, alpha=alpha, power=power)
    found = TTestPower().power(detectable / 200**0.5, 200, alpha)
    assert found == pytest.approx(power, abs=0.01)


def test_half_the_effect_needs_four_times_the_data():
    assert sample_factor(0.02, 0.01) == pytest.approx(4)


@pytest.mark.parametrize("value", [0.0, 0.3, 2.0, 9.0, 40.0])
@pytest.mark.parametrize("freedom", [1, 2.5, 30, 5e3, 1e9])
def test_two_sided_tails_are_scipys(value, freedom):
    expected = 2 * reference.t.sf(value, freedom)
    assert student_two_sided(-value, freedom) == pytest.approx(expected, rel=1e-5, abs=1e-300)


def test_an_infinite_statistic_has_no_tail():
    assert student_two_sided(float("inf"), 3) == 0.0
    assert student_two_sided(1.96, float("inf")) == pytest.approx(0.04999579)
