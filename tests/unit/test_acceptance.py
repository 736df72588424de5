"""`bench baseline accept` through the real command line: what it accepts, refuses and changes."""

import json
from pathlib import Path

import pytest

from bench.gate.chronicle import read_history
from bench.gate.files import load_baseline, save_baseline
from bench.gate.levels import accepted_runs, add_levels
from bench.gate.past import Cuts, PastCell, PastRun, value_history
from bench.gate.values import Metric
from bench.record import Record, Status
from bench.significance import ChangeKind
from bench.store import open_store
from tests.histories import Evening, Ran, add_night, add_nights, command_line, jitter, make_evening
from tests.records import START

FULL = "packaged/efficientnet-lite0 · digits · full"
PROBE = "packaged/efficientnet-lite0 · digits · linear_probe"
STEADY = Evening()
WORSE = Evening(accuracy=0.85)
REASON = "labels were cleaned"


def night(evening: Evening = STEADY, number: int = 0, **wishes: object) -> list[Record]:
    """Two cells of two seeds; only `full` is as the evening says."""
    return [
        make_evening(own, number, packed=True, strategy=name, seed=seed, **wishes)
        for name, own in (("full", evening), ("linear_probe", STEADY))
        for seed in (0, 1)
    ]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch, capfd) -> Ran:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCH_STORE", raising=False)
    monkeypatch.setenv("LOGNAME", "ada")
    return command_line(monkeypatch, capfd)


@pytest.fixture
def saved(bench: Ran) -> Ran:
    """A baseline of run 1; the store also holds run 2, in which `full` is worse."""
    add_night(night())
    assert bench("baseline", "save", "main", "--from", "vision")[0] == 0
    add_night(night(WORSE, 1))
    return bench


def accept(run: Ran, *words: str, cell: str = FULL, reason: str = REASON) -> tuple[int, str, str]:
    return run("baseline", "accept", "main", "--cell", cell, "--reason", reason, *words)


def test_an_accepted_level_is_the_reference_of_later_nights(saved: Ran):
    assert saved("compare", "main")[0] == 1
    code, out, err = accept(saved)
    assert (code, err) == (0, "")
    assert f"by ada, run 2: {FULL}: accuracy 89.2% → 84.5%, macro-F1" in out
    assert REASON in out and "results/baselines/main.json: " in out
    code, out, _ = saved("compare", "main", "--all")
    assert code == 0, out
    assert "baseline   baseline main with 1 level accepted since, measured" in out
    assert f"unchanged      {FULL} · accuracy  84.5% → 84.5%" in out
    add_night(night(Evening(accuracy=0.78), 2))
    code, out, _ = saved("compare", "main")
    assert code == 1
    today = load_baseline("main").accepted[0].accepted_at
    assert f"against the level accepted {today:%Y-%m-%d}: {REASON}" in out
    assert f"{FULL} · accuracy  84.5% → 7" in out
    add_night(night(number=3))
    assert "improved" in saved("compare", "main")[1], "the old level is better than the new one"


def test_only_what_was_asked_for_is_accepted(saved: Ran):
    add_night(night(Evening(accuracy=0.85, rate=50.0, memory=800_000_000), 2))
    accept(saved, "--metric", "infer_examples_per_second,infer_peak_memory_bytes")
    (level,) = load_baseline("main").accepted
    assert level.metrics == (Metric.INFER_RATE, Metric.INFER_MEMORY)
    assert level.values[Metric.INFER_MEMORY] == pytest.approx((200_000_000, 800_000_000))
    assert not any(record.predictions for record in level.records)
    code, out, _ = saved("compare", "main")
    red = [line for line in out.splitlines() if line.startswith("regressed")]
    assert code == 1
    assert any("· NLL  0.670 → 0.952" in line for line in red)
    assert any("· train memory" in line for line in red)
    assert not any("· infer" in line for line in red)


def test_quality_is_accepted_as_one(saved: Ran):
    accept(saved, "--metric", "test_accuracy")
    (level,) = load_baseline("main").accepted
    assert level.metrics == (Metric.ACCURACY, Metric.MACRO_F1, Metric.NLL)
    assert all(record.predictions for record in level.records)


def test_without_a_metric_what_regressed_or_improved_is_accepted(saved: Ran):
    accept(saved, cell="*")
    assert [level.cell for level in load_baseline("main").accepted] == [FULL]
    add_night(night(WORSE, 2))
    code, _, err = accept(saved, cell="*")
    assert code == 2
    assert f"nothing of {FULL}, {PROBE} regressed or improved in run 3" in err
    assert "name it: --metric test_accuracy" in err
    assert accept(saved, "--metric", "test_accuracy")[0] == 0


def test_another_run_can_be_named(saved: Ran):
    add_night(night(Evening(accuracy=0.7), 2))
    code, out, _ = accept(saved, "--run", "2")
    assert (code, "run 2: " in out, "89.2% → 84.5%" in out) == (0, True, True)
    code, _, err = accept(saved, "--run", "9")
    assert code == 2
    assert "suite 'vision' in results/bench.db has no run 9. Its newest: 1, 2, 3" in err


def test_a_later_level_replaces_the_records_but_not_the_memory_of_an_earlier_one(saved: Ran):
    accept(saved)
    add_night(night(Evening(accuracy=0.8), 2))
    accept(saved, reason="again")
    first, second = load_baseline("main").accepted
    assert (first.reason, first.records) == (REASON, ())
    assert (second.reason, len(second.records)) == ("again", 2)
    assert second.values[Metric.ACCURACY][0] == pytest.approx(0.85, abs=0.01)
    assert saved("compare", "main")[0] == 0
    shown = saved("baseline", "show", "main")[1]
    assert f": {REASON}\n" in shown and ": again\n" in shown
    assert [level.reason for level in add_levels((first,), (second,))] == [REASON, "again"]


def test_a_file_without_accepted_levels_still_loads(saved: Ran):
    path = Path("results/baselines/main.json")
    value = json.loads(path.read_text())
    assert value.pop("accepted") == []
    path.write_text(json.dumps(value))
    assert load_baseline("main").accepted == ()
    assert saved("compare", "main")[0] == 1


def test_a_level_is_read_back_as_it_was_written(saved: Ran):
    accept(saved)
    once = load_baseline("main")
    save_baseline(once)
    assert load_baseline("main") == once


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"reason": " "}, "a level is accepted with a reason: --reason"),
        ({"cell": "vgg"}, "--cell 'vgg' is no cell of baseline 'main'. Known:\n  packaged/"),
        ({"cell": FULL + "y"}, f"Did you mean '{FULL}'?"),
    ],
)
def test_what_cannot_be_accepted_exits_with_2(saved: Ran, words: dict[str, str], message: str):
    before = Path("results/baselines/main.json").read_bytes()
    code, out, err = accept(saved, **words)
    assert (code, out) == (2, "")
    assert message in err
    assert Path("results/baselines/main.json").read_bytes() == before


def test_an_unknown_metric_is_refused(saved: Ran):
    code, _, err = accept(saved, "--metric", "accuracy")
    assert (code, "unknown metric 'accuracy'. Did you mean 'test_accuracy'?" in err) == (2, True)


def test_a_metric_that_neither_side_has_is_refused(saved: Ran):
    code, _, err = accept(saved, "--metric", "train_examples_per_second", cell=PROBE)
    assert code == 2
    assert "neither the baseline nor run 2 has a value of train_examples_per_second for" in err


def test_a_failed_cell_is_refused_with_its_reason(saved: Ran):
    broken = make_evening(Evening(wishes={"status": Status.OOM, "message": "no memory"}), 2)
    add_night([broken, *night(number=2)[1:]])
    code, _, err = accept(saved)
    assert code == 2
    assert f"run 3 has no level to accept for all that is asked for:\n  {FULL} is failed" in err
    assert "seed 0 is oom: no memory" in err


def test_a_cell_that_the_run_lacks_is_refused(saved: Ran):
    add_night(night(number=2)[2:])
    code, _, err = accept(saved)
    assert (code, f"{FULL} is missing: the candidate does not hold this cell" in err) == (2, True)


@pytest.mark.parametrize(
    ("wishes", "why"),
    [
        ({"device_class": "cpu:Other CPU:2"}, "they ran on different classes of device"),
        ({"fields": {"epochs": 9}}, "their keys differ, so another task was measured"),
    ],
)
def test_a_run_under_other_conditions_is_refused(saved: Ran, wishes: dict[str, object], why: str):
    add_night(night(WORSE, 2, **wishes))
    code, _, err = accept(saved)
    assert code == 2
    assert f"{FULL} is not comparable: " in err and why in err


def test_a_speed_of_a_busy_machine_is_refused(saved: Ran):
    add_night(night(Evening(rate=100.0, waiting=0.5), 2))
    code, _, err = accept(saved, "--metric", "infer_examples_per_second")
    assert code == 2
    assert "infer_examples_per_second is inconclusive: the candidate was measured on a busy" in err


def test_a_suite_of_which_the_store_has_no_run_is_refused(saved: Ran):
    Path("results/bench.db").unlink()
    with open_store() as store:
        store.start_run("other")
    code, _, err = accept(saved)
    assert (code, "no results of suite 'vision'" in err) == (2, True)


def test_the_history_names_an_accepted_level_at_its_run(bench: Ran):
    steady = [Evening(rate=500 * noise) for noise in jitter(16, 1)]
    add_nights(steady)
    assert bench("baseline", "save", "main", "--from", "vision")[0] == 0
    add_nights([Evening(rate=350 * noise) for noise in jitter(6, 2)], first=16)
    words = ("--metric", "infer_examples_per_second", "--run", "18")
    assert accept(bench, *words, reason="the new kernel is exact")[0] == 0
    out = bench("history", "vision")[1]
    assert "accepted at run 18, 2026-01-19: " in out
    assert ": the new kernel is exact\n" in out
    with open_store(create=False) as store:
        cell = read_history(store, "vision").cells[0]
    assert cell.name == FULL
    found = {
        series.metric: [(shift.kind, shift.position) for shift in series.shifts]
        for series in cell.series
    }
    assert found[Metric.INFER_RATE] == [(ChangeKind.ACCEPTED, 17)]
    assert found[Metric.TRAIN_RATE] == [(ChangeKind.STEP, 16)], "this one nobody accepted"


def test_a_step_that_was_told_is_not_told_again_from_an_accepted_level(bench: Ran):
    add_nights([Evening(rate=500 * noise) for noise in jitter(16, 1)])
    assert bench("baseline", "save", "main", "--from", "vision")[0] == 0
    add_nights([Evening(rate=350 * noise) for noise in jitter(6, 2)], first=16)
    assert accept(bench, "--metric", "infer_examples_per_second")[0] == 0
    add_nights([Evening(rate=350 * noise) for noise in jitter(12, 3)], first=22)
    with open_store(create=False) as store:
        cell = read_history(store, "vision").cells[0]
    (series,) = [each for each in cell.series if each.metric is Metric.INFER_RATE]
    kinds = [(shift.kind, shift.position, shift.reason) for shift in series.shifts]
    assert kinds == [(ChangeKind.STEP, 16, None), (ChangeKind.ACCEPTED, 21, REASON)]
    assert series.shifts[1].better is None, "it was there already"


def test_a_damaged_baseline_is_a_warning_of_the_history(saved: Ran):
    Path("results/baselines/broken.json").write_text("{")
    Path("results/baselines/other.json").write_bytes(b"\xff\xfe")
    code, out, err = saved("history", "vision")
    assert (code, "2 runs" in out) == (0, True)
    assert "warning: results/baselines/broken.json is damaged or no baseline" in err
    assert "warning: cannot read results/baselines/other.json" in err


def test_an_accepted_level_cuts_the_history_that_noise_is_read_from():
    def run(number: int, value: float) -> PastRun:
        cell = PastCell(conditions="c", values={Metric.INFER_RATE: value})
        return PastRun(scope=f"s{number}", run_id=number, started_at=START, cells={"cell": cell})

    values = [0.10, 0.12, 0.11, 0.13, 0.12, 0.13]
    past = [run(number, value) for number, value in enumerate(values)]
    name = ("cell", Metric.INFER_RATE)
    whole = value_history(past, {"cell": "c"})[name]
    assert [len(level) for level in whole] == [6]
    cut = value_history(past, {"cell": "c"}, cuts=Cuts(accepted={name: {"s3": "faster"}}))[name]
    assert [list(level) for level in cut] == [values[:3], values[3:]]
    first = value_history(past, {"cell": "c"}, cuts=Cuts(accepted={name: {"s0": "first"}}))[name]
    assert [len(level) for level in first] == [6]
    assert accepted_runs(()) == {}
