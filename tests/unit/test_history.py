"""`bench history` through the real command line, on real small stores of many nights."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench.gate.chronicle import read_history
from bench.gate.trends import NEEDED_RUNS, History, Series, latest_runs, least_change
from bench.gate.values import Metric
from bench.record import Status
from bench.significance import ChangeKind
from bench.store import open_store
from bench.tables.history import sparkline
from tests.histories import Evening, Ran, add_night, add_nights, command_line, jitter, make_evening
from tests.records import make_record

CELL = "packaged/efficientnet-lite0 · digits · full"
NIGHTS = 24


@pytest.fixture
def bench(tmp_path: Path, monkeypatch, capfd) -> Ran:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCH_STORE", raising=False)
    return command_line(monkeypatch, capfd)


def slowed(at: int, nights: int = NIGHTS, factor: float = 0.8) -> list[Evening | None]:
    """A speed with noise that falls for good in a night, with a new torch."""
    return [
        Evening(rate=500 * noise)
        if night < at
        else Evening(rate=500 * noise * factor, torch="2.15.0")
        for night, noise in enumerate(jitter(nights, 1))
    ]


def history() -> History:
    with open_store(create=False) as store:
        return read_history(store, "vision")


def series_of(found: History, metric: Metric, cell: str = CELL) -> list[Series]:
    return [
        series
        for trend in found.cells
        for series in trend.series
        if trend.name == cell and series.metric is metric
    ]


def dated(found: History, metric: Metric) -> list[tuple[ChangeKind, int, bool | None]]:
    return [
        (shift.kind, found.runs[shift.position].run_id, shift.better)
        for series in series_of(found, metric)
        for shift in series.shifts
    ]


def test_a_step_is_told_with_its_run_its_size_and_what_changed_there(bench: Ran):
    add_nights(slowed(at=14))
    code, out, err = bench("history", "vision")
    assert (code, err) == (0, "")
    assert "suite vision: 24 runs, run 1, 2026-01-02, to run 24, 2026-01-25" in out
    lines = [line.strip() for line in out.splitlines()]
    step = next(line for line in lines if line.startswith("step at run 15, 2026-01-16: "))
    assert step.endswith("%), worse")
    assert "changed since run 14: torch 2.14.0 → 2.15.0" in lines
    # What changed comes first, then a line per quiet cell.
    assert out.index(CELL) < out.index("quiet:\n  plain/pixels")
    assert "quiet: accuracy 90.0%, macro-F1 89.5%, NLL 0.300" in out


def test_a_step_is_found_once_and_stays_where_it_is_as_nights_go_on(bench: Ran):
    evenings = slowed(at=14, nights=30)
    add_nights(evenings[:16])
    assert "quiet" in bench("history", "vision")[1]
    assert dated(history(), Metric.INFER_RATE) == []
    for count in range(17, 31):
        add_nights(evenings[count - 1 : count], first=count - 1)
        assert dated(history(), Metric.INFER_RATE) == [(ChangeKind.STEP, 15, False)], count
        shown = json.loads(bench("history", "vision", "--format", "json")[1])
        changes = [
            (change["kind"], change["run_id"], change["since_run_id"])
            for cell in shown["cells"]
            for series in cell["series"]
            for change in series["changes"]
            if series["metric"] == "infer_examples_per_second"
        ]
        assert changes == [("step", 15, 14)]


def test_a_spike_is_no_step(bench: Ran):
    evenings = slowed(at=NIGHTS)
    evenings[15] = Evening(rate=250.0)
    evenings[16] = Evening(rate=240.0)
    add_nights(evenings)
    assert dated(history(), Metric.INFER_RATE) == []
    assert "step" not in bench("history", "vision")[1]
    assert "step" not in bench("history", "vision", "--metric", "all")[1]


def test_a_shift_below_half_the_minimum_effect_is_no_step(bench: Ran):
    add_nights([Evening(accuracy=0.9 if night < 14 else 0.898) for night in range(NIGHTS)])
    assert dated(history(), Metric.ACCURACY) == []
    more = [Evening(accuracy=0.88) for _ in range(4)]
    add_nights(more, first=NIGHTS)
    assert dated(history(), Metric.ACCURACY) == [(ChangeKind.STEP, NIGHTS + 1, False)]


def test_a_step_as_large_as_the_minimum_effect_is_dated_to_its_own_night(bench: Ran):
    noise = [0.2 * (factor - 1) for factor in jitter(NIGHTS, 4, 0.0025)]
    add_nights(
        [Evening(accuracy=0.9 + noise[night] - (0.005 if night >= 14 else 0))
         for night in range(NIGHTS)]
    )  # fmt: skip
    assert dated(history(), Metric.ACCURACY) == [(ChangeKind.STEP, 15, False)]


def test_steps_are_good_or_bad_by_what_the_metric_means(bench: Ran):
    before, after = Evening(), Evening(accuracy=0.95, rate=650.0, memory=250_000_000)
    add_nights([before if night < 14 else after for night in range(NIGHTS)])
    found = history()
    better = {metric: [each[2] for each in dated(found, metric)] for metric in Metric}
    assert better == {
        Metric.ACCURACY: [True],
        Metric.MACRO_F1: [True],
        Metric.NLL: [True],
        Metric.TRAIN_RATE: [True],
        Metric.INFER_RATE: [True],
        Metric.LATENCY: [True],
        Metric.TRAIN_MEMORY: [False],
        Metric.INFER_MEMORY: [False],
        Metric.HOST_MEMORY: [False],
    }
    levels = {metric: series_of(found, metric)[0].levels[-1].value for metric in Metric}
    assert levels[Metric.ACCURACY] == pytest.approx(0.95)
    assert levels[Metric.INFER_RATE] == pytest.approx(650.0)
    assert levels[Metric.TRAIN_RATE] == pytest.approx(130.0)
    assert levels[Metric.INFER_MEMORY] == 250_000_000


def test_gaps_say_why_there_is_no_value_and_are_no_steps(bench: Ran):
    evenings = slowed(at=NIGHTS)
    evenings[5] = None
    evenings[6] = Evening(wishes={"status": Status.OOM})
    evenings[7] = Evening(rate=100.0, waiting=0.5)
    add_nights(evenings)
    (series,) = series_of(history(), Metric.INFER_RATE)
    assert [series.values[night] for night in (5, 6, 7)] == [None, None, None]
    assert series.gaps[5:8] == (
        "the run lacks this cell",
        "seed 0 is oom",
        "measured on a busy machine",
    )
    assert series.gaps[8] == "" and series.shifts == ()
    (accuracy,) = series_of(history(), Metric.ACCURACY)
    assert accuracy.values[7] == 0.9, "an accuracy does not depend on who else computes"
    assert sparkline(series)[5:8] == "···"
    text = bench("history", "vision", "--format", "csv")[1]
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row["run_id"] == "7"]
    assert {row["gap"] for row in rows if row["cell"] == CELL} == {"seed 0 is oom"}
    assert all(row["value"] == "" for row in rows if row["gap"])


def test_other_conditions_begin_another_series_and_are_said(bench: Ran):
    other = {"device_class": "cpu:Other CPU:2"}
    add_nights(
        [Evening(rate=500.0 if night < 14 else 900.0, wishes=other if night >= 14 else {})
         for night in range(NIGHTS)]
    )  # fmt: skip
    found = history()
    old, new = series_of(found, Metric.INFER_RATE)
    assert (old.shifts, new.shifts) == ((), ())
    assert (old.newest, new.newest) == (False, True)
    assert (old.num_measured, new.num_measured) == (14, 10)
    assert set(new.gaps[:14]) == {"measured under other conditions"}
    code, out, _ = bench("history", "vision")
    expected = (
        "other conditions since run 15, 2026-01-16: "
        "device class cpu:Synthetic CPU:2 → cpu:Other CPU:2"
    )
    assert code == 0 and expected in out and "step" not in out


def test_a_changed_cell_of_the_same_name_is_other_conditions(bench: Ran):
    longer = {"fields": {"epochs": 9}}
    add_nights([Evening(wishes=longer if night >= 14 else {}) for night in range(NIGHTS)])
    assert (
        "other conditions since run 15, 2026-01-16: cell: strategy.epochs"
        in (bench("history", "vision")[1])
    )
    keyed = history().cells[0].beginnings[0]
    assert all(change.name != "key" for change in keyed.changes)


def test_two_machines_that_take_turns_are_two_series(bench: Ran):
    other = {"device_class": "cpu:Other CPU:2"}
    add_nights(
        [Evening(rate=500.0 + 400 * (night % 2), wishes=other if night % 2 else {})
         for night in range(30)]
    )  # fmt: skip
    assert [series.num_measured for series in series_of(history(), Metric.INFER_RATE)] == [15, 15]
    assert dated(history(), Metric.INFER_RATE) == []


def test_the_last_runs_are_shown_and_what_was_found_in_all_stays(bench: Ran):
    add_nights(slowed(at=14, nights=30))
    out = bench("history", "vision", "--last", "18")[1]
    assert "suite vision: 18 runs, run 13, 2026-01-14, to run 30, 2026-01-31" in out
    assert "step at run 15, 2026-01-16" in out, "18 runs alone could not show it"
    assert "12 earlier runs are not shown" in out
    late = bench("history", "vision", "--last", "5")[1]
    assert "25 earlier runs are not shown, with 3 changes in them" in late
    assert "step" not in late
    whole = history()
    assert latest_runs(whole, 30) == whole
    (series,) = series_of(latest_runs(whole, 5), Metric.INFER_RATE)
    assert len(series.values) == len(series.gaps) == 5
    assert [(level.first, level.last) for level in series.levels] == [(0, 4)]


def test_metrics_and_cells_can_be_chosen(bench: Ran):
    add_nights(slowed(at=14))
    words = ("--metric", "test_accuracy,infer_examples_per_second", "--cell", "*lite0*")
    out = bench("history", "vision", *words)[1]
    assert "accuracy" in out and "infer speed" in out
    assert "NLL" not in out and "plain/pixels" not in out
    whole = bench("history", "vision", "--cell", CELL, "--metric", "all")[1]
    assert all(name in whole for name in ("NLL", "host memory", "p50 latency"))


def test_few_runs_say_that_they_are_few(bench: Ran):
    add_nights([Evening()])
    out = bench("history", "vision")[1]
    assert "suite vision: 1 run, run 1, 2026-01-02" in out
    assert f"no series has {NEEDED_RUNS} values yet, so no step can be told from chance" in out


def test_a_suite_without_a_record_says_so(bench: Ran):
    with open_store() as store:
        store.start_run("vision")
    code, out, _ = bench("history", "vision")
    assert (code, out) == (0, "suite vision has no run with a record\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("vison",), "no results of suite 'vison' in results/bench.db. Did you mean 'vision'?"),
        (("vision", "--metric", "test_acuracy"), "unknown metric 'test_acuracy'. Did you mean "),
        (("vision", "--cell", "vgg"), "--cell 'vgg' is no cell of suite 'vision'. Known:\n  pack"),
        (("vision", "--format", "xml"), "unknown format 'xml'. Known: table, json, csv"),
    ],
)
def test_what_cannot_be_shown_exits_with_2(bench: Ran, words: tuple[str, ...], message: str):
    add_nights([Evening()])
    code, out, err = bench("history", *words)
    assert (code, out) == (2, "")
    assert message in err


def test_a_store_of_many_records_is_read_from_its_newest_run(bench: Ran):
    add_nights([Evening() for _ in range(6)])
    with open_store(create=False) as store:
        found = read_history(store, "vision", most_records=5)
    assert [run.run_id for run in found.runs] == [4, 5, 6]
    assert found.num_earlier == 3


def test_where_runs_are_left_out_the_first_one_stays_for_some_nights(bench: Ran):
    add_nights([Evening() for _ in range(20)])
    starts = []
    for night in range(20, 30):
        add_nights([Evening()], first=night)
        with open_store(create=False) as store:
            found = read_history(store, "vision", most_records=32)
        assert 12 < len(found.runs) <= 16
        assert found.num_earlier + len(found.runs) == night + 1
        starts.append(found.runs[0].run_id)
    assert starts == [9, 9, 9, 9, 13, 13, 13, 13, 17, 17]


def test_ten_cells_six_metrics_and_thirty_runs_fit_on_a_screen(bench: Ran):
    for night, evening in enumerate(slowed(at=14, nights=30)):
        records = [
            make_evening(evening if index == 0 else Evening(), night, backbone=f"timm/net{index}")
            for index in range(10)
        ]
        add_night(records)
    out = bench("history", "vision")[1]
    assert len(out.splitlines()) <= 40
    assert out.index("timm/net0") < out.index("quiet:\n")


def test_an_unchanged_series_is_drawn_flat_and_a_step_is_not():
    values = (1.0, 1.001, 0.999, 1.0)
    base = Series("c", Metric.INFER_RATE, "x", values, ("",) * 4, (), (), 4, True)
    assert sparkline(base) == "▄▄▄▄"
    assert sparkline(replace(base, values=(1.0, 1.0, None, 2.0))) == "▁▁·█"
    assert sparkline(replace(base, values=(None, None, None, None))) == "····"


def test_the_least_change_of_a_cost_is_a_ratio():
    assert least_change(Metric.ACCURACY) == 0.0025
    assert least_change(Metric.INFER_RATE) == pytest.approx(0.0247, abs=1e-4)


def test_hostile_names_steer_no_terminal(bench: Ran):
    add_night([make_record(backbone="timm/\x1b[31mred", strategy="full")])
    assert "\x1b" not in bench("history", "vision", "--metric", "all")[1]
