"""Folds pooled: one row of all examples, its interval, and a night that compares them."""

import numpy as np
import pytest

from bench.folds import fold_sizes, missing_folds, pool_folds
from bench.gate import Verdict, judge, read_cell
from bench.gate.records import identify, incomplete, label_records
from bench.metrics import outcome_bits, pack_predictions
from bench.record import Record, Status
from bench.significance import NO_EXCESS, fold_excess, hierarchical_interval, outcome_spread
from bench.stats import wilson_interval
from bench.tables import failed_cells, summarise
from tests.records import make_record, with_outcomes

SIZES = (40, 40, 39)


def fold_record(fold: int, *, seed: int = 0, right: np.ndarray | None = None, **wishes) -> Record:
    """Return a record of one of three folds; examples and ids are the fold's own."""
    record = make_record(seed=seed, **wishes)
    cell = record.cell.model_copy(
        update={
            "fold": fold,
            "dataset": record.cell.dataset.model_copy(update={"folds": len(SIZES)}),
        }
    )
    record = record.model_copy(update={"cell": cell, "key": f"{fold}{seed}{record.key}"})
    if record.test is None:
        return record
    size = SIZES[fold]
    right = np.arange(size) % 10 > fold if right is None else right
    record = with_outcomes(record, right)
    digest = record.outcomes.model_copy(update={"ids_digest": f"fold {fold}"})
    labels = np.arange(size) % 3
    logits = np.zeros((size, 3))
    logits[np.arange(size), np.where(right, labels, (labels + 1) % 3)] = 3
    ids = [f"{fold}-{number}" for number in range(size)]
    packed = pack_predictions("test", ids, f"fold {fold}", logits, labels)
    return record.model_copy(update={"outcomes": digest, "predictions": (packed,)})


def seed_records(seed: int = 0, **wishes) -> list[Record]:
    return [fold_record(fold, seed=seed, **wishes) for fold in (2, 0, 1)]


def test_the_folds_of_a_seed_are_one_test_split_in_the_order_of_the_folds() -> None:
    records = seed_records()
    (pooled,) = pool_folds(records)
    flags = [np.arange(size) % 10 > fold for fold, size in enumerate(SIZES)]
    together = np.concatenate(flags)
    assert pooled.test.num_examples == sum(SIZES)
    assert pooled.test.accuracy == pytest.approx(together.mean())
    bits = np.unpackbits(outcome_bits(pooled.outcomes), count=sum(SIZES))
    np.testing.assert_array_equal(bits.astype(bool), together)
    assert fold_sizes(records) == SIZES


def test_records_without_folds_are_what_they_were() -> None:
    records = [make_record(seed=0), make_record(seed=1)]
    assert pool_folds(records) == records
    assert fold_sizes(records) == () and missing_folds(records[:1]) == ()


def test_a_row_is_all_folds_and_counts_its_seeds_not_its_cells() -> None:
    (row,) = summarise([*seed_records(0), *seed_records(1)])
    assert (row.num_seeds, row.num_cells, row.status) == (2, 2, "ok")
    assert row.dataset == "digits (3 folds)"
    (pooled,) = pool_folds(seed_records())
    assert row.test_accuracy == pytest.approx(pooled.test.accuracy)
    assert row.test_accuracy_std == 0
    assert row.test_accuracy_low < row.test_accuracy < row.test_accuracy_high


def test_a_seed_without_one_of_its_folds_has_no_accuracy() -> None:
    (row,) = summarise(seed_records()[:2])
    assert (row.num_seeds, row.num_cells, row.test_accuracy) == (0, 1, None)
    assert row.rank_low is None
    failed = [*seed_records()[:2], fold_record(1, status=Status.OOM)]
    (row,) = summarise([*failed, *seed_records(1)])
    assert (row.num_seeds, row.num_cells, row.status) == (1, 2, "oom")
    assert failed_cells(failed)[0].draw == "seed 0 · fold 1"


def test_rows_of_folds_are_ranked_example_by_example() -> None:
    wide = [fold_record(f, strategy="full", right=np.arange(SIZES[f]) % 10 > 0) for f in range(3)]
    rows = summarise([*seed_records(strategy="knn"), *wide])
    assert [(row.strategy, row.rank_low, row.rank_high) for row in rows] == [
        ("full", 1, 1),
        ("knn", 2, 2),
    ]


def test_folds_that_differ_more_than_their_examples_widen_the_interval() -> None:
    alike = np.tile(np.arange(100) % 5 > 0, 5)[None]
    assert fold_excess(alike, [100] * 5).factor == 1
    apart = np.concatenate([np.arange(100) < share for share in (95, 90, 80, 70, 65)])[None]
    excess = fold_excess(apart, [100] * 5)
    assert excess.factor > 5 and excess.freedom == 4
    assert apart.mean() == alike.mean()
    narrow, wide = (
        hierarchical_interval(outcome_spread(correct), folds=fold_excess(correct, [100] * 5))
        for correct in (alike, apart)
    )
    assert narrow == wilson_interval(0.8, 500, 1.959963984540054)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_the_excess_is_the_ratio_of_mean_squares() -> None:
    rng = np.random.default_rng(0)
    sizes = [30, 30, 29, 29]
    shares = np.repeat([0.9, 0.5, 0.7, 0.6], sizes)
    correct = rng.random((1, sum(sizes))) < shares
    parts = np.split(correct[0].astype(float), np.cumsum(sizes)[:-1])
    between = sum(len(p) * (p.mean() - correct.mean()) ** 2 for p in parts) / 3
    assert fold_excess(correct, sizes).factor == pytest.approx(between / correct.var())


def test_what_is_no_fold_or_all_right_has_no_excess() -> None:
    right = np.ones((1, 20), dtype=bool)
    assert fold_excess(right, []) == fold_excess(right, [20]) == NO_EXCESS
    assert fold_excess(right, [10, 10]).factor == 1


def test_seeds_and_folds_widen_together() -> None:
    rng = np.random.default_rng(1)
    shares = np.repeat([0.95, 0.9, 0.8, 0.7, 0.65], 100)
    correct = rng.random((3, 500)) < shares
    plain = hierarchical_interval(outcome_spread(correct))
    folded = hierarchical_interval(outcome_spread(correct), folds=fold_excess(correct, [100] * 5))
    assert folded.high - folded.low > plain.high - plain.low


def test_intervals_of_a_learner_whose_folds_agree_cover_what_they_should() -> None:
    """Nearest centroids in five dimensions; the truth is the mean over all data sets drawn."""
    rng = np.random.default_rng(0)
    labels, folds = np.arange(100) % 2, np.arange(100) // 2 % 5
    accuracies, intervals = [], []
    for _ in range(400):
        points = rng.normal(size=(100, 5))
        points[:, 0] += 1.5 * labels
        right = np.empty(100, dtype=bool)
        for fold in range(5):
            held = folds == fold
            near = [
                ((points[held] - points[~held & (labels == label)].mean(0)) ** 2).sum(1)
                for label in (0, 1)
            ]
            right[held] = (near[1] < near[0]) == labels[held]
        ordered = right[np.argsort(folds, kind="stable")][None]
        accuracies.append(right.mean())
        intervals.append(
            hierarchical_interval(outcome_spread(ordered), folds=fold_excess(ordered, [20] * 5))
        )
    truth = float(np.mean(accuracies))
    covered = np.mean([each.low <= truth <= each.high for each in intervals])
    assert 0.92 < covered < 0.99


def test_a_night_compares_folds_with_their_own() -> None:
    before, after = read_cell("cell", seed_records()), read_cell("cell", seed_records()[::-1])
    (seed,) = before.seeds
    assert len(seed.predictions.ids) == sum(SIZES) and "fold" not in seed.fields
    night = judge([before], [after])
    assert {row.verdict for row in night.rows} <= {Verdict.UNCHANGED, Verdict.INCONCLUSIVE}
    accuracy = next(row for row in night.rows if row.metric == "test_accuracy")
    assert accuracy.effect == 0 and accuracy.baseline == pytest.approx(95 / 119)


def test_a_fold_that_got_worse_regresses_the_cell() -> None:
    worse = [fold_record(fold, right=np.arange(SIZES[fold]) % 10 > 6) for fold in range(3)]
    night = judge([read_cell("cell", seed_records())], [read_cell("cell", worse)])
    accuracy = next(row for row in night.rows if row.metric == "test_accuracy")
    assert accuracy.verdict is Verdict.REGRESSED


def test_folds_that_are_missing_or_failed_fail_the_cell_and_say_which() -> None:
    whole = read_cell("cell", seed_records())
    (row,) = judge([whole], [read_cell("cell", seed_records()[:2])]).rows
    assert row.verdict is Verdict.FAILED
    assert row.reasons == ("seed 0 is error: fold 1 is missing",)
    failed = [*seed_records()[:2], fold_record(1, status=Status.OOM, message="no memory")]
    (row,) = judge([whole], [read_cell("cell", failed)]).rows
    assert row.reasons == ("seed 0 is oom: fold 1: no memory",)


def test_a_run_lacks_the_folds_that_it_does_not_hold() -> None:
    records = seed_records()[:2]
    assert incomplete(seed_records()) == []
    name = "packaged/efficientnet-lite0 · digits (3 folds) · linear_probe"
    assert incomplete(records) == [f"{name} · seed 0 · fold 1 is missing"]
    assert len({identify(record.cell) for record in records}) == 1
    assert list(label_records(records).values()) == [name]
