"""Claims 5 and 7: what a sweep costs beside its arithmetic, and what it saves on the whole.

Run: ``pytest benchmarks/bench_sweep.py``, about 7 minutes, 4 to 5 of them for suites/vision.yaml.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.executors.local import LocalExecutor
from bench.plan import plan_cells
from bench.record import Progress, Recalled, Record
from bench.spec import BackboneSpec, Cell, Job, Suite
from bench.store import open_store
from bench.strategies.linear_probe import LinearProbeSpec
from bench.suite import load_suite
from bench.sweep import SweepOptions, run_sweep
from benchmarks import tasks, textbook
from benchmarks.measure import QUICK, Timing, run_process, size
from benchmarks.results import Row, Target, at_least, at_most, compare

_ROOT = Path(__file__).parent.parent
_SECONDS_BEFORE = 247.0
"""suites/vision.yaml from an empty cache at revision 9bd2935, on 2 cores of an AMD EPYC."""

_PROBE_EPOCHS = 10
# What the second cell of a backbone pays for that any way to do it would.
_ARITHMETIC = ("fit", "evaluate", "profile")


def start_and_answer(job: Job, emit) -> Recalled:  # type: ignore[no-untyped-def]
    """Do nothing in a child but say that it is there; named by string in a test below."""
    emit(Progress(phase="here"))
    return Recalled(request_key=job.request_key, key="")


def _run_suite(suite: str, folder: Path) -> Timing:
    """Return what `bench run` takes over a store and a cache in a folder."""
    command = [sys.executable, "-m", "bench", "run", str(_ROOT / "suites" / suite)]
    command += ["--store", str(folder / "bench.db"), "--report", str(folder / "report")]
    environ = {"BENCH_CACHE": str(folder / "cache"), "PYTHONPATH": str(_ROOT)}
    ended = run_process(command, environ=environ, log=folder / "log.txt")
    assert ended.code == 0, (folder / "log.txt").read_text()
    return ended.timing


def test_a_finished_suite_answers_in_a_second(claim, tmp_path) -> None:  # type: ignore[no-untyped-def]
    def measure() -> list[Row]:
        _run_suite("smoke.yaml", tmp_path)
        again = [_run_suite("smoke.yaml", tmp_path).wall_seconds for _ in range(size(5, 2))]
        what, setting = "second run of a finished suite", "suites/smoke.yaml, process to exit"
        return [Row("5", what, setting, statistics.median(again), at_most(1.0), unit="s")]

    claim(measure)


def test_a_child_starts_at_once(claim) -> None:  # type: ignore[no-untyped-def]
    def measure() -> list[Row]:
        began: dict[str, float] = {}
        seconds: list[float] = []

        def note(job: Job, progress: Progress) -> None:
            if progress.phase == "start":
                began[job.request_key] = time.perf_counter()
            elif progress.phase == "here":
                seconds.append(time.perf_counter() - began[job.request_key])

        with LocalExecutor(target="benchmarks.bench_sweep:start_and_answer") as local:
            for _ in local.run(_jobs(size(12, 4)), note):
                pass
        # The first one starts the server, which imports torch once for all.
        what, setting = "child start, to its first message", "torch, timm, transformers loaded"
        return [Row("5", what, setting, statistics.median(seconds[1:]), at_most(0.3), unit="s")]

    claim(measure)


def _jobs(count: int) -> Iterator[Job]:
    cell = Cell(
        suite="benchmark",
        backbone=BackboneSpec(name="plain/pixels"),
        dataset={"name": "digits"},  # type: ignore[arg-type]
        strategy=LinearProbeSpec(),
    )
    for number in range(count):
        yield Job(cell=cell, run_id=1, run_scope="benchmark", request_key=str(number))


class _Clock:
    """An observer that notes how long each cell took, from its start to its stored record."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began = 0.0

    def warned(self, message: str) -> None:
        pass

    def planned(self, pending: Sequence[Cell], num_held: int) -> None:
        """Note nothing."""

    def progressed(self, cell: Cell, progress: Progress) -> None:
        """Note the start."""
        if progress.phase == "start":
            self._began = time.perf_counter()

    def finished(self, cell: Cell, result: Record | Recalled) -> None:
        """Note the end."""
        self.seconds.append(time.perf_counter() - self._began)


def test_a_cell_with_features_costs_little_beyond_its_arithmetic(claim, tmp_path) -> None:  # type: ignore[no-untyped-def]
    # Strengths that differ in nothing but their value: the same features, another cell.
    probes = tuple(LinearProbeSpec(l2=1.0 + step / 10) for step in range(size(7, 3)))
    suite = Suite.model_validate(
        {
            "name": "benchmark",
            "backbones": [tasks.LITE0],
            "datasets": [{"name": "mnist-5k", "train_examples": 1000}],
            "strategies": probes,
            "image_size": 64,
            "limits": {"profile_time": 0.2},
        }
    )

    def measure() -> list[Row]:
        clock = _Clock()
        options = SweepOptions(cache_dir=str(tmp_path / "cache"), limits=suite.limits)
        with open_store(str(tmp_path / "bench.db")) as store:
            result = run_sweep(plan_cells(suite), store=store, options=options, observer=clock)
        assert result.complete
        pairs = list(zip(clock.seconds, result.records, strict=True))[1:]
        beyond = [
            whole - sum(record.seconds.get(phase, 0.0) for phase in _ARITHMETIC)
            for whole, record in pairs
        ]
        what = "cell whose features exist, beyond fit, evaluation and profile"
        setting = "efficientnet-lite0, mnist-5k, 64 px, child start to stored record"
        return [Row("5", what, setting, statistics.median(beyond), at_most(0.5), unit="s")]

    claim(measure)


@pytest.mark.parametrize("suite", ["smoke.yaml" if QUICK else "vision.yaml"])
def test_a_cold_sweep_beats_textbook_loops(claim, tmp_path, suite) -> None:  # type: ignore[no-untyped-def]
    def measure() -> list[Row]:
        cold = _run_suite(suite, tmp_path)
        textbooks = _Textbooks(load_suite(_ROOT / "suites" / suite))
        again = _run_suite(suite, tmp_path)
        setting = f"suites/{suite}, empty cache"
        before = f"{_SECONDS_BEFORE:g} s before this version's shared paths"
        what = "cold sweep: processor time of textbook loops over bench's"
        return [
            Row("7", "cold sweep, wall time", setting, cold.wall_seconds, at_most(360), "s",
                note=before),
            _row_of_textbooks(f"{what}, the same settings tried", setting, cold,
                              textbooks.same_settings, at_least(10)),
            _row_of_textbooks(f"{what}, each probe at one strength only", setting, cold,
                              textbooks.one_setting, Target()),
            compare("7", "second run of the suite", setting, bench=again, plain=cold),
        ]  # fmt: skip

    claim(measure)


def _row_of_textbooks(what: str, setting: str, cold: Timing, plain: Timing, target: Target) -> Row:
    note = (
        "one epoch of a part measured per backbone, dataset and strategy, extrapolated; a probe "
        f"trains its head for {_PROBE_EPOCHS} epochs per strength; bench's time includes profiles"
    )
    cpu = plain.cpu_seconds / cold.cpu_seconds
    row = compare("7", what, setting, bench=cold, plain=plain, target=target, note=note)
    return replace(row, ratio=cpu)


class _Textbooks:
    """The time of a suite's cells as textbook loops, each kind scaled from a part.

    Attributes:
        same_settings: Every cell tries what bench tries in it: a probe its whole path of strengths.
        one_setting: Every cell trains once, which chooses nothing.
    """

    def __init__(self, suite: Suite) -> None:
        self.same_settings = self.one_setting = Timing(0, 0)
        known: dict[object, Timing] = {}
        with tasks.temporary_runtime() as runtime:
            for cell in plan_cells(suite):
                if cell.backbone.name.startswith("plain/"):
                    continue
                key = (cell.backbone, cell.dataset, cell.strategy.name)
                if key not in known:
                    known[key] = _textbook_cell(cell, runtime)
                self.one_setting += known[key]
                self.same_settings += known[key].scaled(len(cell.strategy.grid_points()))


def _textbook_cell(cell: Cell, runtime: tasks.BenchRuntime) -> Timing:
    assert cell.image_size is not None
    backbone = tasks.load_backbone(cell.backbone, cell.image_size)
    data = tasks.prepare(backbone, cell.dataset, runtime)
    split = tasks.part_of(data.train, size(128, 32))
    examples = tasks.textbook_examples(backbone, cell.dataset, runtime, split)
    epochs = getattr(cell.strategy, "epochs", _PROBE_EPOCHS)
    count = getattr(cell.strategy, "trainable_stages", 0)
    last = [path for stage in backbone.stages[-count:] for path in stage.modules] if count else []
    torch.manual_seed(0)
    model = tasks.textbook_model(backbone, len(data.info.class_names))
    rates = textbook.measure_rates(
        model, examples, trained=None if cell.strategy.name == "full" else last
    )
    val = 0 if data.val is None else len(data.val)
    return rates.loop((len(data.train), val, len(data.test)), epochs)
