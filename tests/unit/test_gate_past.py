"""Earlier runs in short: what they keep, what counts as equal, and what is noise among them."""

from datetime import timedelta

import numpy as np
import pytest

from bench.gate import Metric
from bench.gate.past import (
    Cuts,
    PastCell,
    PastRun,
    add_runs,
    conditions,
    merge_past,
    past_like,
    read_past,
    value_history,
)
from bench.gate.reading import read_cell
from bench.gate.records import label_records
from bench.record import Record, Status
from tests.records import START, make_record

NAME = ("cell", Metric.INFER_RATE)


def seeds(**wishes: object) -> list[Record]:
    return [make_record(strategy="full", seed=seed, **wishes) for seed in (0, 1)]


def past(value: float, night: int = 0, condition: str = "same") -> PastRun:
    cell = PastCell(conditions=condition, values={Metric.INFER_RATE: value})
    return PastRun(
        scope=f"{night:032x}",
        run_id=night,
        started_at=START + timedelta(days=night),
        cells={"cell": cell},
    )


def series(values: list[float]) -> list[PastRun]:
    return [past(value, night) for night, value in enumerate(values)]


def level_sizes(values: list[float]) -> list[int]:
    found = value_history(series(values), {"cell": "same"})
    return [len(level) for level in found[NAME]]


def consistent(record: Record) -> Record:
    """Rates that follow from the repeats, as those of a measured profile do."""
    train, infer = record.train_profile, record.infer_profile
    rates = {
        "train_profile": train.model_copy(
            update={"examples_per_second": train.batch_size / np.median(train.step_seconds)}
        ),
        "infer_profile": infer.model_copy(
            update={"examples_per_second": infer.batch_size / np.median(infer.batch_seconds)}
        ),
    }
    return record.model_copy(update=rates)


def test_a_run_in_short_has_the_costs_that_the_gate_compares():
    records = [consistent(record) for record in seeds()]
    names = label_records(records)
    run = read_past("scope", records, names)
    (name,) = names.values()
    values = run.cells[name].values
    costs = read_cell(name, records).costs
    for metric, cost in costs.items():
        assert values[metric] == pytest.approx(np.median(cost.runs[0]), rel=1e-5), metric
    assert values[Metric.ACCURACY] == pytest.approx(
        np.mean([record.test.accuracy for record in records])
    )
    assert set(values) == set(costs) | {Metric.ACCURACY, Metric.MACRO_F1, Metric.NLL}


def test_a_cell_with_a_failed_seed_and_a_run_without_records_have_no_values():
    records = [seeds()[0], make_record(strategy="full", seed=1, status=Status.OOM)]
    assert read_past("scope", records, label_records(records)).cells == {}
    assert read_past("scope", [], {}) is None


def test_speed_on_a_busy_machine_is_no_value():
    records = seeds()
    busy = records[0].infer_profile.model_copy(update={"waiting_fraction": 0.5})
    records[0] = records[0].model_copy(update={"infer_profile": busy})
    (cell,) = read_past("scope", records, label_records(records)).cells.values()
    assert Metric.INFER_RATE not in cell.values
    assert Metric.LATENCY not in cell.values
    assert Metric.TRAIN_RATE in cell.values


def timing(record: Record) -> Record:
    """The record where its process timed the numerics of the forward pass."""
    forward = record.effective.forward.model_copy(update={"source": "measured"})
    effective = record.effective.model_copy(update={"forward": forward})
    return record.model_copy(update={"effective": effective})


def test_resident_memory_of_a_process_that_timed_numerics_is_no_value_of_any_cell_of_its_backbone():
    """Cells share the profile of whichever came first."""
    probe = timing(make_record(strategy="linear_probe"))
    other = make_record(strategy="full", backbone="plain/pixels")
    run = read_past("scope", [probe, *seeds(), other], label_records([probe, *seeds(), other]))
    memory = {Metric.HOST_MEMORY, Metric.INFER_MEMORY}
    with_memory = {name for name, cell in run.cells.items() if memory & set(cell.values)}
    assert len(run.cells) == 3
    assert with_memory == {"plain/pixels · digits · full"}


def test_memory_that_the_device_counts_has_no_traces_of_what_was_tried():
    record = timing(make_record(device_memory=True))
    (cell,) = read_past("scope", [record], label_records([record])).cells.values()
    assert Metric.INFER_MEMORY in cell.values
    assert Metric.HOST_MEMORY not in cell.values


def test_conditions_are_equal_whatever_the_order_and_the_numbers():
    first, second = seeds()
    slower = second.train_profile.model_copy(update={"examples_per_second": 1.0})
    assert conditions([first, second]) == conditions(
        [second.model_copy(update={"train_profile": slower}), first]
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda record: {"key": "another"},
        lambda record: {
            "environment": record.environment.model_copy(update={"device_class": "cpu:other:2"})
        },
        lambda record: {
            "effective": record.effective.model_copy(update={"effective_batch_size": 8})
        },
        lambda record: {"infer_profile": record.infer_profile.model_copy(update={"batch_size": 8})},
        lambda record: {
            "effective": record.effective.model_copy(
                update={
                    "forward": record.effective.forward.model_copy(update={"precision": "fp32"})
                }
            )
        },
    ],
    ids=["key", "device", "effective batch", "batch", "precision"],
)
def test_other_conditions_are_another_series(change):
    first, second = seeds()
    changed = second.model_copy(update=change(second))
    assert conditions([first, second]) != conditions([first, changed])


def test_only_values_under_equal_conditions_are_history():
    runs = [past(1.0, 0), past(9.0, 1, "other"), past(1.1, 2)]
    assert value_history(runs, {"cell": "same"}) == {NAME: [[1.0, 1.1]]}
    assert value_history(runs, {}) == {}


def test_runs_that_repeat_tonight_are_a_level_of_their_own():
    tonight = [past(2.0, 8), past(2.1, 9)]
    found = value_history(series([1.0, 1.1]), {"cell": "same"}, tonight)
    assert [tuple(level) for level in found[NAME]] == [(1.0, 1.1), (2.0, 2.1)]


def test_a_step_long_ago_cuts_the_history():
    rng = np.random.default_rng(0)
    values = [*(1 + 0.01 * rng.standard_normal(15)), *(1.3 + 0.01 * rng.standard_normal(15))]
    assert level_sizes(values) == [15, 15]


@pytest.mark.parametrize("num_bad", [1, 2])
def test_an_end_that_went_off_is_no_noise(num_bad):
    """A regression that nobody has mended since last night must not excuse itself."""
    values = [1.0, 1.02, 0.99, 1.01, *([1.2] * num_bad)]
    assert level_sizes(values) == [4, num_bad]


def test_an_outlier_that_came_back_is_noise():
    assert level_sizes([1.0, 1.02, 0.99, 1.01, 1.2, 1.0]) == [6]


@pytest.mark.parametrize(
    ("values", "sizes"),
    [
        ([1.0, 1.01, 1.04], [3]),
        ([1.0, 1.01, 1.10], [2, 1]),
        ([1.0, 1.01, 0.99, 1.03], [4]),
        ([1.0, 1.01, 0.99, 1.05], [3, 1]),
        ([0.9, 0.9, 0.89], [2, 1]),
        ([1.0, 1.25], [2]),
    ],
)
def test_the_fewer_values_the_farther_off_the_end_must_be(values, sizes):
    assert level_sizes(values) == sizes


def test_what_came_after_the_baseline_counts_apart():
    """One night after it, a regression would else be all the noise that is known."""
    runs = series([1.0, 1.25, 1.26])
    found = value_history(runs, {"cell": "same"}, cuts=Cuts(reference=runs[0].scope))
    assert [tuple(level) for level in found[NAME]] == [(1.0,), (1.25, 1.26)]


def test_an_accepted_level_begins_anew():
    runs = series([1.0, 1.01, 1.03, 1.02])
    cuts = Cuts(accepted={NAME: {runs[2].scope: "a new kernel"}})
    found = value_history(runs, {"cell": "same"}, cuts=cuts)
    assert [tuple(level) for level in found[NAME]] == [(1.0, 1.01), (1.03, 1.02)]


def test_the_same_run_of_two_sources_counts_once_and_runs_are_in_order():
    runs = series([1.0, 1.1, 1.2])
    assert merge_past(runs[1:], reversed(runs[:2])) == tuple(runs)


def test_further_runs_of_equal_conditions_count_for_the_costs_of_a_cell():
    records = seeds()
    cell = read_cell("cell", records)
    more = add_runs(cell, "same", [past(0.5, 1), past(0.7, 2, "other"), past(0.6, 3)])
    assert more.costs[Metric.INFER_RATE].runs[1:] == ((0.5,), (0.6,))
    assert more.costs[Metric.LATENCY] == cell.costs[Metric.LATENCY]


def test_of_earlier_runs_a_baseline_keeps_the_cells_that_are_like_its_own():
    records = seeds()
    names = label_records(records)
    own = read_past("a", records, names)
    other = read_past("b", [r.model_copy(update={"key": "x"}) for r in records], names)
    assert past_like([own, other], records, names) == (own,)
