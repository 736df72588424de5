"""Ratios, noise from run to run, and changes of level."""

import math

import numpy as np
import pytest
from scipy import stats as reference

from bench.errors import UsageError
from bench.significance import (
    Change,
    ChangeKind,
    Noise,
    ShiftSettings,
    between_run_noise,
    find_changes,
    levels,
    pool_noise,
    ratio_effect,
    ratio_test,
)

ASSUMED = Noise(sigma=0.01, freedom=math.inf, assumed=True)
NONE = Noise(sigma=0.0, freedom=math.inf, assumed=True)


def repeats(rng, middle, count, spread=0.03):
    return tuple(middle * np.exp(spread * rng.standard_normal(count)))


@pytest.mark.parametrize(("first", "second"), [(31, 31), (30, 40), (5, 8), (200, 7)])
def test_the_spread_of_a_ratio_is_scipys_bootstrap_of_medians(first, second):
    rng = np.random.default_rng(first)
    baseline, candidate = repeats(rng, 0.2, first), repeats(rng, 0.25, second)

    def log_ratio(one, two, axis):
        return np.log(np.median(two, axis=axis) / np.median(one, axis=axis))

    expected = reference.bootstrap(
        (baseline, candidate),
        log_ratio,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    effect = ratio_effect([baseline], [candidate], num_replicates=20_000)
    tested = ratio_test(effect, NONE)
    interval = expected.confidence_interval
    assert effect.estimate == pytest.approx(log_ratio(baseline, candidate, 0))
    assert tested.standard_error == pytest.approx(expected.standard_error, rel=0.05)
    assert (tested.low, tested.high) == pytest.approx((interval.low, interval.high), abs=2e-3)


def test_noise_from_run_to_run_widens_the_interval_and_the_test():
    rng = np.random.default_rng(0)
    effect = ratio_effect([repeats(rng, 1.0, 100)], [repeats(rng, 1.02, 100)])
    alone, noisy = ratio_test(effect, NONE), ratio_test(effect, ASSUMED)
    assert alone.p < 0.01 < 0.1 < noisy.p
    assert noisy.standard_error == pytest.approx(
        math.hypot(alone.standard_error, 0.01 * math.sqrt(2))
    )
    assert noisy.low < alone.low and alone.high < noisy.high
    assert noisy.sampling_share < 0.25


def test_single_values_with_assumed_noise_are_a_normal_test():
    tested = ratio_test(ratio_effect([[100.0]], [[105.0]]), ASSUMED)
    error = 0.01 * math.sqrt(2)
    assert tested.p == pytest.approx(2 * reference.norm.sf(math.log(1.05) / error), rel=1e-6)
    assert tested.high - tested.estimate == pytest.approx(1.959964 * error, rel=1e-6)


def test_short_history_is_trusted_less_than_an_assumption():
    effect = ratio_effect([[100.0]], [[105.0]])
    short = ratio_test(effect, Noise(sigma=0.01, freedom=6, assumed=False))
    error = 0.01 * math.sqrt(2)
    assert short.p == pytest.approx(2 * reference.t.sf(math.log(1.05) / error, 6), rel=1e-6)


def test_more_processes_narrow_what_runs_add():
    one = ratio_test(ratio_effect([[1.0]], [[1.1]]), ASSUMED)
    four = ratio_test(ratio_effect([[1.0]] * 4, [[1.1]] * 4), ASSUMED)
    assert four.standard_error == pytest.approx(one.standard_error / 2)


def test_equal_costs_without_any_noise_are_no_difference():
    tested = ratio_test(ratio_effect([[5.0]], [[5.0]]), NONE)
    assert (tested.p, tested.low, tested.high) == (1.0, 0.0, 0.0)
    assert ratio_test(ratio_effect([[5.0]], [[5.1]]), NONE).p == 0.0


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_a_cost_that_is_not_above_zero_is_refused(value):
    with pytest.raises(UsageError, match="values above 0: the candidate has"):
        ratio_effect([[1.0]], [[1.0, value]])


def test_a_process_without_repeats_is_refused():
    with pytest.raises(UsageError, match="repeat of every process: the baseline has none"):
        ratio_effect([[1.0], []], [[1.0]])
    with pytest.raises(UsageError, match="the candidate has none"):
        ratio_effect([[1.0]], [])


def test_noise_is_the_spread_within_levels_not_between_them():
    low, high = [1.0, 1.1, 0.9], [5.0, 5.2]
    noise = between_run_noise([low, high, [9.0]])
    assert noise is not None and not noise.assumed
    assert noise.freedom == 3
    assert noise.sigma**2 == pytest.approx((2 * np.var(low, ddof=1) + np.var(high, ddof=1)) / 3)


def test_a_single_run_tells_nothing_of_noise():
    assert between_run_noise([[1.0], [2.0], []]) is None


def test_equal_values_have_no_noise_though_their_mean_is_rounded():
    value = 0.1 + 0.2
    assert between_run_noise([[value] * 7]).sigma == 0.0
    assert between_run_noise([[value, value + 1e-9, value]]).sigma > 0.0


def test_without_history_the_noise_is_assumed_and_said_to_be():
    assert pool_noise(None, [], floor=0.01, assumed=0.05) == Noise(0.05, math.inf, assumed=True)


def test_a_cell_without_history_has_the_noise_of_the_grid():
    others = [Noise(0.02, 5, assumed=False), Noise(0.04, 5, assumed=False)]
    pooled = pool_noise(None, others, floor=0.01, assumed=0.5)
    assert pooled.sigma == pytest.approx(math.sqrt((0.02**2 + 0.04**2) / 2))
    assert (pooled.freedom, pooled.assumed) == (10, False)


def test_a_short_history_leans_on_the_grid_and_a_long_one_on_itself():
    grid = [Noise(0.01, 100, assumed=False)]
    short = pool_noise(Noise(0.05, 2, assumed=False), grid, floor=0.001, assumed=0.5)
    long = pool_noise(Noise(0.05, 200, assumed=False), grid, floor=0.001, assumed=0.5)
    assert 0.01 < short.sigma < 0.035 < 0.049 < long.sigma < 0.05
    assert (short.freedom, long.freedom) == (6, 204)


def test_a_quiet_history_is_held_to_the_floor_until_it_is_long():
    quiet = Noise(0.0, 4, assumed=False)
    assert pool_noise(quiet, [quiet], floor=0.01, assumed=0.5).sigma == pytest.approx(
        0.01 / math.sqrt(2)
    )


def series(seed, length, level=100.0, noise=1.0):
    return list(level + noise * np.random.default_rng(seed).standard_normal(length))


@pytest.mark.parametrize("seed", range(20))
def test_a_jump_is_one_step_at_its_position(seed):
    values = series(seed, 40)
    values[25:] = [value - 8 for value in values[25:]]
    (change,) = find_changes(values)
    assert (change.kind, change.position) == (ChangeKind.STEP, 25)
    assert change.before == pytest.approx(100, abs=1)
    assert change.after == pytest.approx(92, abs=2)


def test_nights_that_follow_never_move_a_step_or_find_it_again():
    values = series(1, 60)
    values[25:] = [value + 8 for value in values[25:]]
    nightly = [find_changes(values[:night]) for night in range(1, 61)]
    assert all(not found for found in nightly[:27])
    assert nightly[27] and all(found == nightly[27] for found in nightly[27:])


@pytest.mark.parametrize("length", [1, 2])
@pytest.mark.parametrize("seed", range(10))
def test_a_spike_is_not_a_step(seed, length):
    values = series(seed, 40)
    for position in range(20, 20 + length):
        values[position] += 50
    assert find_changes(values) == ()


def test_no_change_is_never_a_step():
    found = [find_changes(series(seed, 200)) for seed in range(100)]
    assert sum(map(bool, found)) <= 1


def test_a_constant_series_has_no_change():
    assert find_changes([5.0] * 30) == ()


@pytest.mark.parametrize("slope", [0.02, 0.05, 0.1, 0.2, 0.3, 0.5])
@pytest.mark.parametrize("start", [0, 40])
def test_a_drift_is_a_drift_or_nothing_and_not_a_step_each_night(slope, start):
    steps, drifts = 0, 0
    for seed in range(20):
        noise = series(seed, 120)
        values = [value + slope * max(0, night - start) for night, value in enumerate(noise)]
        kinds = [change.kind for change in find_changes(values)]
        assert len(kinds) <= 5
        steps += kinds.count(ChangeKind.STEP)
        drifts += kinds.count(ChangeKind.DRIFT)
    # Over 120 nights of a drift in noise, hardly one in three series shows anything like a step.
    assert steps <= 10
    assert drifts >= 15 or slope < 0.1


def test_a_drift_that_goes_on_is_one_change():
    values = [100 + 0.5 * night + 0.2 * (-1) ** night for night in range(60)]
    (change,) = find_changes(values)
    assert change.kind is ChangeKind.DRIFT
    assert change.after > 120


def test_nights_without_a_value_neither_hide_nor_make_a_step():
    values = series(3, 40)
    values[25:] = [value + 8 for value in values[25:]]
    gaps: list[float | None] = list(values)
    for position in (3, 10, 11, 12, 24, 26, 27):
        gaps[position] = None
    (change,) = find_changes(gaps)
    assert (change.kind, change.position) == (ChangeKind.STEP, 25)
    assert find_changes([None] * 20) == ()
    calm = [value if night % 3 else None for night, value in enumerate(series(4, 60))]
    assert find_changes(calm) == ()


def test_two_steps_are_two_changes():
    values = series(5, 60)
    values[20:] = [value + 10 for value in values[20:]]
    values[40:] = [value - 10 for value in values[40:]]
    assert [change.position for change in find_changes(values)] == [20, 40]


def test_a_step_smaller_than_what_matters_is_none():
    values = [100.0] * 20 + [101.0] * 20
    assert [change.position for change in find_changes(values)] == [20]
    assert find_changes(values, ShiftSettings(least=2.0)) == ()


def test_an_accepted_level_is_the_new_reference():
    values = series(6, 60)
    values[25:] = [value + 8 for value in values[25:]]
    settings = ShiftSettings(accepted={25: "larger head, agreed"})
    (change,) = find_changes(values, settings)
    assert change.kind is ChangeKind.ACCEPTED
    assert (change.position, change.reason) == (25, "larger head, agreed")
    assert change.before == pytest.approx(100, abs=1)
    assert change.after == pytest.approx(108, abs=1)
    values[45:] = [value + 8 for value in values[45:]]
    assert [found.kind for found in find_changes(values, settings)] == [
        ChangeKind.ACCEPTED,
        ChangeKind.STEP,
    ]


def test_a_level_accepted_after_its_step_was_found_leaves_the_step_in_the_history():
    values = series(6, 60)
    values[25:] = [value + 8 for value in values[25:]]
    found = find_changes(values, ShiftSettings(accepted={40: "seen, it stays"}))
    assert [change.position for change in found] == [25, 40]


def test_a_level_accepted_where_nothing_was_measured_yet_waits_for_a_value():
    found = find_changes([1.0, 1.0, None], ShiftSettings(accepted={2: "new machine"}))
    assert found == ()


def test_accepting_needs_a_reason_and_a_place():
    with pytest.raises(UsageError, match="position 1 was accepted without a reason"):
        find_changes([1.0, 2.0], ShiftSettings(accepted={1: "  "}))
    with pytest.raises(UsageError, match="position 5, but the series has 2 values"):
        find_changes([1.0, 2.0], ShiftSettings(accepted={5: "why"}))


def test_levels_are_the_values_between_changes():
    values = [1.0, None, 2.0, 9.0, 8.0]
    change = Change(ChangeKind.STEP, 3, 1.5, 8.5)
    assert levels(values, [change]) == ((1.0, 2.0), (9.0, 8.0))
