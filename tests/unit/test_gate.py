"""Verdicts, their reasons and what they need, and exit codes, on synthetic nights."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as reference

from bench.compare import Difference
from bench.errors import UsageError
from bench.gate import (
    DEFAULT_LIMITS,
    FAMILIES,
    Cost,
    GateSettings,
    Metric,
    Verdict,
    Verdicts,
    judge,
    parse_min_effects,
)
from bench.gate.pairs import content_changes
from bench.gate.reading import BUSY
from bench.summary import Status
from tests.nights import Nights, World

QUICK = GateSettings(num_replicates=200)
KNOWN = replace(QUICK, assumed_noise={"throughput": 0.01, "memory": 0.005})
SMALL = World(num_cells=2, num_seeds=2, num_examples=200)


def verdicts(result: Verdicts, metric: Metric) -> list[Verdict]:
    return [row.verdict for row in result.rows if row.metric is metric]


def one_pair(world: World = SMALL, **changes: object):
    """A cell twice with the same numbers, the second with changes."""
    cell = Nights(world, 0).run()[0]
    return [cell], [replace(cell, **changes)]


def with_seed(cell, index: int, **changes: object):
    seeds = list(cell.seeds)
    seeds[index] = replace(seeds[index], **changes)
    return replace(cell, seeds=tuple(seeds))


def alone(result: Verdicts):
    (row,) = result.rows
    return row


def test_the_other_way_round_is_an_improvement():
    world = World(num_examples=2000, num_cells=5)
    nights = Nights(world, 0)
    changed = replace(world, drop=0.03, slowdown=0.2, growth=0.1)
    result = judge(nights.run(changed), nights.run(), KNOWN)
    for metric in (Metric.ACCURACY, Metric.INFER_RATE, Metric.INFER_MEMORY):
        assert set(verdicts(result, metric)) == {Verdict.IMPROVED}
    assert result.exit_code == 0


def test_the_same_numbers_are_unchanged_and_exit_zero():
    result = judge(*one_pair(), QUICK)
    assert set(verdicts(result, Metric.ACCURACY)) == {Verdict.UNCHANGED}
    assert result.counts[Verdict.REGRESSED] == 0
    assert result.exit_code == 0
    assert {row.metric for row in result.rows if row.effect == 0.0} == {
        Metric.ACCURACY,
        Metric.MACRO_F1,
        Metric.NLL,
    }


def test_a_comparison_repeats_exactly():
    nights = Nights(SMALL, 3)
    first, second = nights.run(), nights.run()
    assert judge(first, second, QUICK) == judge(first, second, QUICK)


def test_the_order_of_examples_does_not_matter():
    nights = Nights(SMALL, 3)
    first, second = nights.run(), nights.run()
    shuffled = []
    for cell in second:
        given = cell.seeds[1].predictions
        order = nights.rng.permutation(len(given.ids))
        moved = replace(
            given,
            ids=tuple(given.ids[place] for place in order),
            labels=given.labels[order],
            predicted=given.predicted[order],
            true_probability=given.true_probability[order],
            top5=given.top5[order],
        )
        shuffled.append(with_seed(cell, 1, predictions=moved))
    assert judge(first, shuffled, QUICK) == judge(first, second, QUICK)


def test_rates_are_ratios_of_rates_and_their_interval_holds_the_noise():
    seconds = Cost(runs=((0.1, 0.1, 0.1),), batch_size=10)
    slow = Cost(runs=((0.2, 0.2, 0.2),), batch_size=10)
    before, after = one_pair(costs={Metric.TRAIN_RATE: slow})
    before = [replace(before[0], costs={Metric.TRAIN_RATE: seconds})]
    row = next(row for row in judge(before, after).rows if row.metric is Metric.TRAIN_RATE)
    assert (row.baseline, row.candidate, row.effect) == pytest.approx((100, 50, 0.5))
    assert row.verdict is Verdict.REGRESSED
    assert (row.noise, row.noise_assumed) == (0.1, True)
    assert row.reasons == (
        "more than chance, and at least the minimum effect, "
        "if runs vary by 10.0% as assumed for want of history",
    )
    assert row.low == pytest.approx(0.5 * np.exp(-1.96 * 0.1 * 2**0.5), rel=1e-4)
    assert row.p == pytest.approx(2 * reference.norm.sf(np.log(2) / (0.1 * 2**0.5)), rel=1e-3)


def test_without_history_costs_ask_for_earlier_runs_and_say_how_to_get_them():
    row = next(row for row in judge(*one_pair(), QUICK).rows if row.metric is Metric.INFER_RATE)
    assert (row.verdict, row.need.what, row.need.count) == (
        Verdict.INCONCLUSIVE,
        "earlier runs",
        5,
    )
    assert row.reasons[0].endswith("5 earlier runs would tell: bench run --repeat 5")
    assert row.noise_assumed


def test_several_runs_of_a_side_tell_the_noise():
    runs = tuple((value,) for value in (0.10, 0.101, 0.099, 0.1005))
    before, after = one_pair(costs={Metric.INFER_RATE: Cost(runs=runs, batch_size=8)})
    before = [replace(before[0], costs=after[0].costs)]
    row = next(row for row in judge(before, after, QUICK).rows if row.metric is Metric.INFER_RATE)
    assert (row.verdict, row.noise_assumed) == (Verdict.UNCHANGED, False)
    assert row.noise == pytest.approx(0.01, rel=0.3)


@pytest.mark.parametrize(("seconds", "verdict"), [(5e-5, "inconclusive"), (5e-3, "regressed")])
def test_a_call_of_microseconds_is_not_known_to_a_percent(seconds, verdict):
    """Ten runs that agree say little of the one in ten that the system interrupts."""
    history = {("cell 0", Metric.LATENCY): [[seconds * f for f in (1, 1.01, 0.99) * 3]]}
    before, after = one_pair(costs={Metric.LATENCY: Cost(runs=((1.8 * seconds,),))})
    before = [replace(before[0], costs={Metric.LATENCY: Cost(runs=((seconds,),))})]
    rows = judge(before, after, QUICK, history).rows
    assert [row.verdict for row in rows if row.metric is Metric.LATENCY] == [verdict]


@pytest.mark.parametrize("side", ["baseline", "candidate"])
def test_speed_on_a_busy_machine_is_inconclusive_however_slow(side):
    quiet = Cost(runs=((0.1, 0.1),), batch_size=8)
    busy = Cost(runs=((0.3, 0.3),), batch_size=8, flaw=BUSY)
    first, second = (busy, quiet) if side == "baseline" else (quiet, busy)
    before, after = one_pair(costs={Metric.INFER_RATE: second})
    before = [replace(before[0], costs={Metric.INFER_RATE: first})]
    row = next(row for row in judge(before, after, KNOWN).rows if row.metric is Metric.INFER_RATE)
    assert (row.verdict, row.effect) == (Verdict.INCONCLUSIVE, None)
    assert row.reasons == (
        f"the {side} was measured on a busy machine, so its speed is not the model's",
    )
    assert row.candidate == pytest.approx(8 / second.runs[0][0])


def test_training_on_a_gpu_is_not_taken_to_repeat_exactly():
    world = replace(SMALL, num_cells=1, num_seeds=1, num_examples=2000)
    nights = Nights(world, 0)
    before, after = (nights.run()[0], nights.run(replace(world, drop=0.012))[0])
    rows = [
        next(row for row in judge([a], [b], QUICK).rows if row.metric is Metric.ACCURACY)
        for a, b in (
            (before, after),
            (replace(before, **ON_GPU), replace(after, **ON_GPU)),
        )
    ]
    assert rows[0].noise is None
    assert (rows[1].noise, rows[1].noise_assumed) == (0.005, True)
    assert rows[0].p < rows[1].p


ON_GPU = {"device_class": "cuda:Synthetic", "effective_batch": 64}


def test_real_but_small_effects_page_nobody():
    world = World(num_cells=1, num_seeds=1, num_examples=50)
    cell = Nights(world, 0).run()[0]
    before = replace(cell, costs={Metric.INFER_MEMORY: Cost(runs=((1.0e9,),))})
    after = replace(cell, costs={Metric.INFER_MEMORY: Cost(runs=((1.015e9,),))})
    settings = replace(QUICK, assumed_noise={})
    row = judge([before], [after], settings).rows[-1]
    assert (row.verdict, row.adjusted_p) == (Verdict.UNCHANGED, 0.0)
    assert row.reasons == ("more than chance, but below the minimum effect",)


def test_too_few_examples_are_inconclusive_and_say_how_many_would_do():
    world = World(num_cells=1, num_seeds=1, num_examples=200, flips=0.1)
    nights = Nights(world, 1)
    result = judge(nights.run(), nights.run(), QUICK)
    row = next(row for row in result.rows if row.metric is Metric.ACCURACY)
    assert row.verdict is Verdict.INCONCLUSIVE
    assert row.detectable > row.min_effect
    assert row.need.what == "test examples"
    assert row.need.count == pytest.approx(200 * (row.detectable / 0.005) ** 2, rel=0.01)
    assert f"about {row.need.count} test examples would" in row.reasons[0]
    assert result.exit_code == 0


def test_noise_from_run_to_run_asks_for_runs():
    history = {("cell 0", Metric.INFER_MEMORY): [[1.0, 1.1, 0.9, 1.05, 0.95, 1.0]]}
    before, after = one_pair()
    result = judge(before, after, QUICK, history)
    row = next(row for row in result.rows if row.metric is Metric.INFER_MEMORY)
    assert row.verdict is Verdict.INCONCLUSIVE
    assert row.need.what == "runs on each side"
    assert row.need.count == pytest.approx((np.log1p(row.detectable) / np.log1p(0.02)) ** 2, abs=1)
    assert not row.noise_assumed


def test_few_repeats_ask_for_repeats():
    rng = np.random.default_rng(0)
    costs = {
        Metric.INFER_RATE: Cost(runs=(tuple(np.exp(0.2 * rng.standard_normal(15))),), batch_size=1)
    }
    before, after = one_pair(costs=costs)
    history = {("cell 0", Metric.INFER_RATE): [[1.0, 1.001, 0.999, 1.0]]}
    settings = replace(QUICK, noise_floors={"throughput": 0.001})
    result = judge([replace(before[0], costs=costs)], after, settings, history)
    row = next(row for row in result.rows if row.metric is Metric.INFER_RATE)
    assert (row.verdict, row.need.what) == (Verdict.INCONCLUSIVE, "repeats of each run")
    assert row.need.count > 100


def test_history_of_a_noisy_score_asks_for_seeds():
    history = {("cell 0", Metric.ACCURACY): [[0.85, 0.9, 0.88, 0.86, 0.89, 0.84, 0.9]]}
    result = judge(*one_pair(), QUICK, history)
    row = next(row for row in result.rows if row.metric is Metric.ACCURACY)
    assert (row.verdict, row.need.what) == (Verdict.INCONCLUSIVE, "seeds")


def test_one_seed_with_a_verdict_has_mcnemars_p_value():
    nights = Nights(replace(SMALL, num_cells=1, num_seeds=1), 0)
    before, after = nights.run(), nights.run(replace(SMALL, num_cells=1, num_seeds=1, drop=0.15))
    row = next(row for row in judge(before, after, QUICK).rows if row.metric is Metric.ACCURACY)
    first, second = before[0].seeds[0].predictions, after[0].seeds[0].predictions
    right, still = first.predicted == first.labels, second.predicted == second.labels
    lost, gained = int((right & ~still).sum()), int((~right & still).sum())
    assert row.p == pytest.approx(reference.binomtest(lost, lost + gained).pvalue)
    assert row.effect == pytest.approx((gained - lost) / 200)
    assert row.verdict is Verdict.REGRESSED
    assert row.reasons[0].endswith("minimum effect, if runs of its one seed repeat exactly")


def test_a_floor_for_scores_is_noise_that_one_seed_cannot_show():
    world = replace(SMALL, num_cells=1, num_seeds=1, num_examples=2000)
    nights = Nights(world, 0)
    before, after = nights.run(), nights.run(replace(world, drop=0.1))
    plain = judge(before, after, QUICK)
    wary = judge(before, after, replace(QUICK, noise_floors={"accuracy": 0.015}))
    first, second = (
        next(row for row in result.rows if row.metric is Metric.ACCURACY)
        for result in (plain, wary)
    )
    assert first.p < second.p < 0.001
    assert second.high - second.low > 2 * (first.high - first.low)
    assert second.reasons[0].endswith("if runs vary by 0.015 as assumed for want of history")


def test_a_missing_cell_and_a_missing_seed_never_pass():
    first, second = Nights(SMALL, 0).run()
    result = judge([first, second], [first], QUICK)
    row = result.rows[-1]
    assert (row.cell, row.metric, row.verdict) == ("cell 1", None, Verdict.MISSING)
    assert row.reasons == ("the candidate does not hold this cell",)
    assert result.exit_code == 3
    short = replace(first, seeds=first.seeds[:1])
    row = alone(judge([first], [short], QUICK))
    assert row.verdict is Verdict.MISSING
    assert row.reasons == ("the candidate does not hold seed 1",)


def test_a_failed_seed_fails_the_cell_with_its_message():
    before, _ = one_pair()
    after = [with_seed(before[0], 1, status=Status.OOM, failure="needs 3 GB", predictions=None)]
    result = judge(before, after, QUICK)
    row = alone(result)
    assert row.verdict is Verdict.FAILED
    assert row.reasons == ("seed 1 is oom: needs 3 GB",)
    assert result.exit_code == 3
    early = replace(after[0], numerics={})
    early = with_seed(early, 1, key=None, key_parts={})
    # What a cell did not come to is no change that could have made it fail.
    assert alone(judge(before, [early], QUICK)).changes == ()
    assert judge(after, after, QUICK).exit_code == 3


def test_a_fixed_cell_is_compared_on_the_seeds_that_were_ok():
    after, _ = one_pair()
    before = [with_seed(after[0], 1, status=Status.CRASHED, predictions=None)]
    result = judge(before, after, QUICK)
    assert result.rows[0].verdict is Verdict.FIXED
    assert result.rows[0].reasons == ("baseline: seed 1 is crashed",)
    assert verdicts(result, Metric.ACCURACY) == [Verdict.UNCHANGED]
    assert result.exit_code == 0


def test_new_cells_pass_beside_others_but_not_alone():
    first, second = Nights(SMALL, 0).run()
    result = judge([first], [first, second], QUICK)
    assert result.rows[-1].verdict is Verdict.NEW
    assert result.rows[-1].reasons == ("the baseline does not hold this cell",)
    assert result.exit_code == 0
    assert judge([], [first], QUICK).exit_code == 4
    broken = with_seed(second, 0, status=Status.TIMEOUT, predictions=None)
    assert judge([first], [first, broken], QUICK).exit_code == 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"device_class": "cuda:Other"},
            "they ran on different classes of device (cpu:Synthetic:2 and cuda:Other)",
        ),
        ({"numerics": {"forward": "bf16"}}, "the numerics of forward differ (fp32 and bf16)"),
        ({"effective_batch": 32}, "their effective batch sizes differ (None and 32)"),
    ],
)
def test_other_conditions_are_not_comparable(changes, reason):
    result = judge(*one_pair(**changes), QUICK)
    row = alone(result)
    assert row.verdict is Verdict.NOT_COMPARABLE
    assert row.reasons == (reason,)
    assert result.exit_code == 4


def test_another_key_is_not_comparable_and_names_the_part():
    before, _ = one_pair()
    after = [with_seed(before[0], 1, key="other", key_parts={"weights": "w", "splits": "s"})]
    row = alone(judge(before, after, QUICK))
    assert row.verdict is Verdict.NOT_COMPARABLE
    assert row.reasons == ("their keys differ, so another task was measured (key: splits)",)
    assert Difference("key: splits", None, "s") in row.changes
    unknown = [with_seed(before[0], 0, key=None)]
    assert "parts unknown" in alone(judge(unknown, unknown, QUICK)).reasons[0]


def other_content(cell, part: str, **changes: object):
    """The cell with other content behind the same names, in every seed."""
    for index, seed in enumerate(cell.seeds):
        parts = {**seed.key_parts, part: "other"}
        cell = with_seed(cell, index, key=f"other {index}", key_parts=parts, **changes)
    return cell


@pytest.mark.parametrize(
    ("part", "name"), [("weights", "weights digest"), ("dataset", "dataset fingerprint")]
)
def test_other_content_behind_the_same_names_is_judged_and_named(part: str, name: str):
    world = World(num_cells=1, num_seeds=2, num_examples=2000)
    nights = Nights(world, 0)
    parts = {"weights": "w", "dataset": "d"}
    before = nights.run()[0]
    for index in range(2):
        before = with_seed(before, index, key_parts=parts)
    worse = nights.run(replace(world, drop=0.1))[0]
    for index in range(2):
        worse = with_seed(worse, index, key_parts=parts)
    plain = judge([before], [worse], QUICK)
    swapped = judge([before], [other_content(worse, part)], QUICK)
    row = next(row for row in swapped.rows if row.metric is Metric.ACCURACY)
    assert (row.verdict, swapped.exit_code) == (Verdict.REGRESSED, 1)
    assert row.changes == (Difference(name, parts[part], "other"),)
    # The change is told; numbers and noise are those of any other pair.
    assert [replace(row, changes=()) for row in swapped.rows] == list(plain.rows)
    assert content_changes(before, other_content(worse, part)) == row.changes


def test_other_content_does_not_excuse_another_task():
    cell = one_pair()[0][0]
    strategy = {"weights": "x", "strategy": "other"}
    after = with_seed(with_seed(cell, 0, key="x", key_parts={"weights": "x"}), 1, key="y")
    asked = judge([cell], [with_seed(after, 1, key_parts=strategy)], QUICK)
    row = alone(asked)
    assert (row.verdict, asked.exit_code) == (Verdict.NOT_COMPARABLE, 4)
    assert row.reasons == ("their keys differ, so another task was measured (key: strategy)",)
    fields = with_seed(other_content(cell, "weights"), 1, fields={"image_size": "64"})
    assert "(cell: image_size)" in alone(judge([cell], [fields], QUICK)).reasons[0]


def test_other_content_is_not_comparable_where_test_examples_or_the_digest_are_unknown():
    cell = one_pair()[0][0]
    given = cell.seeds[1].predictions
    labels = replace(given, labels=(given.labels + 1) % 10)
    after = with_seed(other_content(cell, "weights"), 1, predictions=labels)
    row = alone(judge([cell], [after], QUICK))
    assert row.reasons == ("they were tested on different examples or labels",)
    assert row.changes == (Difference("weights digest", "w", "other"),)
    # The baseline's records do not say which data they read, so nothing explains the other key.
    reason = alone(judge([cell], [other_content(cell, "dataset")], QUICK)).reasons[0]
    assert reason == "their keys differ, so another task was measured (parts unknown)"


@pytest.mark.parametrize("part", ["ids", "labels"])
def test_other_test_examples_are_not_comparable(part):
    before, _ = one_pair()
    given = before[0].seeds[0].predictions
    other = {"ids": ("else", *given.ids[1:]), "labels": (given.labels + 1) % 10}[part]
    after = [with_seed(before[0], 0, predictions=replace(given, **{part: other}))]
    row = alone(judge(before, after, QUICK))
    assert row.reasons == ("they were tested on different examples or labels",)


def test_predictions_that_were_not_kept_cannot_be_paired():
    kept, _ = one_pair()
    bare = [with_seed(kept[0], 1, predictions=None)]
    lost = judge(kept, bare, QUICK)
    assert verdicts(lost, Metric.NLL) == [Verdict.MISSING]
    assert lost.exit_code == 3
    never = judge(bare, kept, QUICK)
    row = next(row for row in never.rows if row.metric is Metric.NLL)
    assert row.verdict is Verdict.NOT_COMPARABLE
    assert row.reasons == ("the baseline keeps no predictions, so nothing can be paired",)


@pytest.mark.parametrize(
    ("before", "after", "verdict", "reason"),
    [
        (True, None, Verdict.MISSING, "the candidate has no value of it"),
        (None, True, Verdict.NEW, "the baseline has no value of it"),
        (True, 32, Verdict.NOT_COMPARABLE, "they were measured at batch sizes 64 and 32"),
        (True, 0.0, Verdict.NOT_COMPARABLE, "the candidate has a value that is not above 0"),
    ],
)
def test_costs_that_cannot_be_compared_say_why(before, after, verdict, reason):
    cost = Cost(runs=((0.1, 0.1),), batch_size=64)
    forms = {None: None, True: cost, 32: replace(cost, batch_size=32)}
    zero = replace(cost, runs=((0.1, 0.0),))
    cell, _ = one_pair()
    sides = []
    for form in (before, after):
        chosen = zero if form == 0.0 else forms[form]
        sides.append([replace(cell[0], costs={Metric.INFER_RATE: chosen} if chosen else {})])
    row = next(row for row in judge(*sides, QUICK).rows if row.metric is Metric.INFER_RATE)
    assert row.verdict is verdict
    assert row.reasons[0].startswith(reason)


def test_a_regression_says_what_changed_and_goes_before_failures():
    world = World(num_cells=2, num_seeds=1, num_examples=2000)
    nights = Nights(world, 0)
    before = nights.run()
    worse, other = nights.run(replace(world, drop=0.05))
    worse = replace(worse, versions={"torch": "2.12", "driver": "560"})
    broken = with_seed(other, 0, status=Status.ERROR, predictions=None)
    result = judge(before, [worse, broken], QUICK)
    row = next(row for row in result.rows if row.metric is Metric.ACCURACY)
    assert row.verdict is Verdict.REGRESSED
    assert row.changes == (
        Difference("torch", "2.11", "2.12"),
        Difference("driver", None, "560"),
    )
    assert result.counts[Verdict.FAILED] == 1
    assert result.exit_code == 1


def test_rows_follow_the_baseline_and_then_the_metrics():
    nights = Nights(SMALL, 0)
    before = nights.run()
    result = judge(before[::-1], nights.run(), QUICK)
    assert [row.cell for row in result.rows] == ["cell 1"] * 5 + ["cell 0"] * 5
    assert [row.metric for row in result.rows[:5]] == [
        metric for metric in Metric if metric in {row.metric for row in result.rows}
    ]


def test_cells_and_seeds_that_occur_twice_are_refused():
    (cell,), _ = one_pair()
    with pytest.raises(UsageError, match="the candidate holds the cell 'cell 0' twice"):
        judge([cell], [cell, cell])
    doubled = replace(cell, seeds=cell.seeds[:1] * 2)
    with pytest.raises(UsageError, match=r"cell 'cell 0' needs each seed once, got \[0, 0\]"):
        judge([doubled], [cell])
    with pytest.raises(UsageError, match=r"needs each seed once, got \[\]"):
        judge([replace(cell, seeds=())], [cell])


def test_minimum_effects_are_read_in_their_units():
    given = parse_min_effects("accuracy=0.5pt, throughput=5%,memory=.2%,nll=1.5")
    assert given["accuracy"] == pytest.approx(0.005)
    assert given["throughput"] == pytest.approx(0.05)
    assert given["memory"] == pytest.approx(0.002)
    assert given["nll"] == 1.5
    assert given["macro_f1"] == DEFAULT_LIMITS["macro_f1"]
    assert parse_min_effects("") == dict(DEFAULT_LIMITS)
    assert set(FAMILIES.values()) == set(DEFAULT_LIMITS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("accuracy", "'accuracy' is not like accuracy=0.5pt or memory=2%"),
        ("memory=2%,", "'' is not like"),
        ("accuracy=-1pt", "'accuracy=-1pt' is not like"),
        ("acuracy=1pt", "unknown metric 'acuracy' in minimum effects. Did you mean 'accuracy'?"),
        ("colour=1%", "minimum effects. Known: accuracy, macro_f1, nll, throughput"),
        ("accuracy=5%", "'accuracy=5%' has the wrong unit; write accuracy=5pt"),
        ("memory=2", "'memory=2' has the wrong unit; write memory=2%"),
        ("memory=0%", "'memory=0%' is not above 0 and below 100"),
        ("throughput=100%", "is not above 0 and below 100"),
        ("nll=0", "'nll=0' is not above 0"),
        ("memory=1%,memory=2%", "minimum effect of memory is given twice"),
    ],
)
def test_minimum_effects_that_make_no_sense_are_refused(text, message):
    with pytest.raises(UsageError) as caught:
        parse_min_effects(text)
    assert message in str(caught.value)
