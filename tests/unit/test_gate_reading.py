"""Whole records through the gate."""

import numpy as np
import pytest

from bench.errors import UsageError
from bench.gate import Metric, Verdict, judge, read_cell
from bench.metrics import pack_predictions
from bench.record import Memory, Record, Status
from tests.records import CPU, make_record


def predicted(record: Record) -> Record:
    """One test split for all seeds, and a model per seed."""
    labels = np.random.default_rng(0).integers(0, 10, 400)
    rng = np.random.default_rng(1 + record.cell.seed)
    logits = rng.normal(size=(400, 10))
    logits[np.arange(400), np.where(rng.random(400) < 0.9, labels, (labels + 1) % 10)] += 9
    ids = [str(index) for index in range(400)]
    packed = tuple(pack_predictions(split, ids, "-", logits, labels) for split in ("val", "test"))
    return record.model_copy(update={"predictions": packed})


def records(strategy: str = "full", **wishes: object) -> list[Record]:
    return [predicted(make_record(strategy=strategy, seed=seed, **wishes)) for seed in (1, 0)]


def test_a_cell_has_its_seeds_costs_and_versions():
    cell = read_cell("lite0 digits full", records())
    assert [seed.seed for seed in cell.seeds] == [0, 1]
    assert all(seed.predictions.split == "test" for seed in cell.seeds)
    assert cell.seeds[0].fields["strategy.name"] == "full"
    assert cell.device_class == CPU
    assert cell.numerics["forward"] == "bf16, channels_last, eager, 2 threads"
    assert cell.effective_batch == 64
    assert cell.costs[Metric.INFER_RATE].batch_size == records()[0].infer_profile.batch_size
    assert cell.costs[Metric.TRAIN_RATE].runs[0] == records()[0].train_profile.step_seconds
    assert cell.costs[Metric.HOST_MEMORY].runs == ((400_000_000.0,),)
    assert set(records()[0].environment.packages) < set(cell.versions)
    assert cell.ok


def test_records_against_themselves_are_unchanged():
    cell = read_cell("cell", records())
    result = judge([cell], [cell])
    assert {row.metric for row in result.rows} == set(Metric)
    assert {row.verdict for row in result.rows} <= {Verdict.UNCHANGED, Verdict.INCONCLUSIVE}
    assert result.exit_code == 0


def test_a_profile_that_seeds_share_counts_once_and_others_are_joined():
    shared = records()
    assert read_cell("cell", shared).costs[Metric.TRAIN_RATE].runs == (
        shared[0].train_profile.step_seconds,
    )
    joined = read_cell("cell", [shared[0], timed(shared[1], 2.0)]).costs[Metric.TRAIN_RATE].runs
    assert len(joined) == 1
    assert len(joined[0]) == len(shared[0].train_profile.step_seconds) + 12


def timed(record: Record, factor: float) -> Record:
    """The record with twelve repeats of each profile, so many times as slow."""
    seconds = tuple(factor * value for value in (0.60, 0.61, 0.62, 0.59)) * 3
    slower = {
        "train_profile": record.train_profile.model_copy(update={"step_seconds": seconds}),
        "infer_profile": record.infer_profile.model_copy(update={"batch_seconds": seconds}),
    }
    return record.model_copy(update=slower)


def test_half_the_rate_is_a_regression_of_both_rates():
    before = read_cell("cell", [timed(record, 1.0) for record in records()])
    after = read_cell("cell", [timed(record, 2.0) for record in records()])
    result = judge([before], [after])
    rows = {row.metric: row for row in result.rows}
    for metric in (Metric.TRAIN_RATE, Metric.INFER_RATE):
        assert rows[metric].verdict is Verdict.REGRESSED
        assert rows[metric].effect == pytest.approx(0.5)
    assert result.exit_code == 1


def test_a_strategy_without_steps_has_no_training_costs():
    cell = read_cell("cell", records(strategy="linear_probe"))
    assert not {Metric.TRAIN_RATE, Metric.TRAIN_MEMORY} & set(cell.costs)
    assert "train" not in cell.numerics
    assert cell.effective_batch is None


def test_a_failed_record_keeps_its_message_and_gives_no_costs():
    cell = read_cell("cell", [make_record(status=Status.OOM, message="needs 3 GB")])
    assert (cell.seeds[0].status, cell.seeds[0].failure) == (Status.OOM, "needs 3 GB")
    assert not cell.ok and not cell.costs


def test_seeds_under_different_conditions_name_them_all():
    first, second = records()
    effective = second.effective.model_copy(update={"effective_batch_size": 32})
    profile = second.infer_profile.model_copy(update={"batch_size": 8, "memory": Memory()})
    second = second.model_copy(update={"effective": effective, "infer_profile": profile})
    mixed = read_cell("cell", [first, second])
    assert mixed.numerics["effective batch by seed"] == "32 + 64"
    assert len(mixed.costs[Metric.INFER_RATE].runs) == 1
    assert len(mixed.costs[Metric.INFER_MEMORY].runs) == 1


def test_a_dirty_revision_is_a_version_of_its_own():
    record = make_record()
    environment = record.environment.model_copy(update={"git_revision": "abc", "git_dirty": True})
    cell = read_cell("cell", [record.model_copy(update={"environment": environment})])
    assert cell.versions["git revision"] == "abc with uncommitted changes"


def test_bytes_on_the_device_go_before_resident_bytes():
    cell = read_cell("cell", [make_record(device_memory=True)])
    assert cell.costs[Metric.INFER_MEMORY].runs == ((200_000_000.0,),)


def test_no_record_is_no_cell():
    with pytest.raises(UsageError, match="the cell 'lite0' has no record"):
        read_cell("lite0", [])
