import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from bench import survey
from bench.errors import SuiteLockedError, UsageError
from bench.executors.local import LocalExecutor
from bench.record import Progress, Recalled, Record, Status
from bench.spec import Cell, Limits
from bench.store import Store, open_store
from bench.sweep import SweepOptions, SweepResult, run_sweep
from tests.faults import (
    PYTHON,
    TARGET,
    environ_with_faults,
    fault_cell,
    faults_on_path,
    is_running,
    read_pids,
    wait_until,
)


@pytest.fixture(autouse=True)
def _faults(monkeypatch: pytest.MonkeyPatch):
    with faults_on_path(monkeypatch):
        survey.forget_files()
        yield
        survey.forget_files()


@pytest.fixture
def store(tmp_path: Path):
    with open_store(str(tmp_path / "bench.db")) as opened:
        yield opened


@dataclass
class Notes:
    """An observer that writes down what it is told."""

    store: Store
    num_held: int | None = None
    ended: list[str] = field(default_factory=list)
    stored_by_then: list[int] = field(default_factory=list)

    def warned(self, message: str) -> None:
        pass

    def planned(self, pending: Sequence[Cell], num_held: int) -> None:
        self.num_held = num_held

    def progressed(self, cell: Cell, progress: Progress) -> None:
        pass

    def finished(self, cell: Cell, result: Record | Recalled) -> None:
        self.ended.append(getattr(result, "status", "recalled"))
        self.stored_by_then.append(len(self.store.records(cell.suite)))


def sweep(cells: Sequence[Cell], store: Store, observer=None, **options) -> SweepResult:
    with LocalExecutor(target=TARGET, preload_modules=()) as executor:
        return run_sweep(
            cells,
            store=store,
            executor=executor,
            options=SweepOptions(**options),
            observer=observer,
        )


def test_every_record_is_stored_before_the_observer_hears_of_it(store: Store):
    notes = Notes(store)
    cells = [fault_cell("fake", seed=seed) for seed in range(3)]
    result = sweep(cells, store, notes)
    assert notes.stored_by_then == [1, 2, 3]
    assert (result.num_cells, result.num_held, result.num_missing) == (3, 0, 0)
    assert result.complete
    (first, *_) = store.records("faults")
    assert len(store.predictions(first)) == 1


def test_a_second_sweep_runs_only_what_is_not_ok(store: Store):
    cells = [fault_cell("fake"), fault_cell("fault_error"), fault_cell("fake", seed=1)]
    first = sweep(cells, store)
    assert (len(first.records), first.num_failed, first.complete) == (3, 1, False)
    notes = Notes(store)
    second = sweep(cells, store, notes)
    assert notes.num_held == 2
    assert [record.cell.strategy.name for record in second.records] == ["fault_error"]
    assert second.run == first.run


def test_a_finished_sweep_starts_no_process(store: Store):
    cells = [fault_cell("fake")]
    sweep(cells, store)
    with LocalExecutor(target="bench_nowhere:execute") as executor:
        result = run_sweep(cells, store=store, executor=executor)
    assert (len(result.records), result.num_held, result.complete) == (0, 1, True)


def test_a_new_run_measures_all_again(store: Store):
    cells = [fault_cell("fake")]
    first = sweep(cells, store)
    second = sweep(cells, store, new=True)
    assert len(second.records) == 1
    assert second.run.id > first.run.id


def test_a_touched_file_is_recognised_by_content_and_remembered(store: Store, tmp_path: Path):
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"weights")
    cells = [fault_cell("fake", checkpoint=str(weights))]
    sweep(cells, store)
    os.utime(weights, ns=(1, 1))
    survey.forget_files()
    second = sweep(cells, store)
    assert (second.num_held, second.num_recalled, len(second.records)) == (0, 1, 0)
    assert second.complete
    assert sweep(cells, store).num_held == 1


def test_a_file_that_came_during_the_sweep_needs_no_second_look(store: Store, tmp_path: Path):
    weights = tmp_path / "weights.bin"
    cells = [fault_cell("fake", checkpoint=str(weights), marker=str(weights))]
    assert len(sweep(cells, store).records) == 1
    assert weights.exists()
    second = sweep(cells, store)
    assert (second.num_held, second.num_recalled) == (1, 0)


def test_after_total_time_no_cell_is_started(store: Store):
    cells = [fault_cell("fake", seed=seed, seconds=0.6) for seed in range(4)]
    result = sweep(cells, store, limits=Limits(total_time=0.4))
    assert result.stopped_by == "total_time"
    assert [record.status for record in result.records] == [Status.OK]
    assert result.num_missing == 3
    assert not result.complete
    assert len(store.records("faults")) == 1


def test_total_time_that_suffices_stops_nothing(store: Store):
    result = sweep([fault_cell("fake")], store, limits=Limits(total_time=600))
    assert (result.stopped_by, result.complete) == (None, True)


def test_a_suite_is_locked_while_it_runs(store: Store):
    with (
        store.lock("faults"),
        pytest.raises(SuiteLockedError, match=f"is being run by process {os.getpid()}"),
    ):
        sweep([fault_cell("fake")], store)


def test_the_lock_is_free_after_a_sweep(store: Store):
    sweep([fault_cell("fault_crash")], store)
    with store.lock("faults"):
        pass


def test_a_failed_sweep_of_four_kinds_has_four_statuses_and_the_rest_ok(store: Store):
    cells = [
        fault_cell("fake", seed=0),
        fault_cell("fault_oom"),
        fault_cell("fault_crash"),
        fault_cell("fault_hang"),
        fault_cell("fault_diverge"),
        fault_cell("fake", seed=1),
    ]
    limits = Limits(cell_timeout=4.0, host_memory=64 << 20)
    result = sweep(cells, store, limits=limits)
    statuses = [record.status.value for record in store.records("faults")]
    assert statuses == ["ok", "oom", "crashed", "timeout", "diverged", "ok"]
    assert (result.num_failed, result.num_missing, result.complete) == (4, 0, False)


def test_cells_of_two_suites_are_refused(store: Store):
    other = fault_cell("fake").model_copy(update={"suite": "other"})
    with pytest.raises(UsageError, match="one suite at a time, got cells of: faults, other"):
        sweep([fault_cell("fake"), other], store)


def test_no_cells_are_refused(store: Store):
    with pytest.raises(UsageError, match="no cells to run"):
        sweep([], store)


# In a process of its own, which is interrupted or killed


@dataclass
class Driven:
    """A sweep of four cells of a second each, in another process."""

    folder: Path

    def start(self, strategy: str = "fake") -> subprocess.Popen[str]:
        arguments = [self.folder / "bench.db", self.folder / "pids", strategy, "1.0", "4"]
        return subprocess.Popen(
            [PYTHON, "-m", "bench_faults_sweep", *map(str, arguments)],
            env=environ_with_faults(),
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def pids(self) -> list[int]:
        return read_pids(self.folder / "pids")

    def num_stored(self) -> int:
        with open_store(str(self.folder / "bench.db")) as opened:
            return len(opened.records("faults"))


@pytest.fixture
def driven(tmp_path: Path):
    driven = Driven(tmp_path)
    yield driven
    for pid in driven.pids():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_sweep_that_is_killed_leaves_no_process_and_is_taken_up_again(driven: Driven):
    process = driven.start()
    assert wait_until(lambda: len(driven.pids()) == 2, 30)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 3  # the server, the tracker of resources and the cell
    process.kill()
    process.communicate()
    assert wait_until(lambda: not any(is_running(each.pid) for each in family), 2)
    assert driven.num_stored() == 1

    again = driven.start()
    output, _ = again.communicate(timeout=60)
    assert output == "None 3 0\n"
    assert driven.num_stored() == 4


def test_a_cell_stuck_in_native_code_ends_with_a_sweep_that_is_killed(driven: Driven):
    process = driven.start("fault_stuck")
    assert wait_until(driven.pids, 30)
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    assert wait_until(lambda: not any(is_running(each.pid) for each in family), 2)


def test_an_interrupted_sweep_keeps_what_had_finished(driven: Driven):
    process = driven.start()
    assert wait_until(lambda: len(driven.pids()) == 2, 30)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=10)
    assert output == "interrupt 1 3\n"
    assert process.returncode == 0
    assert wait_until(lambda: not any(is_running(each.pid) for each in family), 2)
    assert driven.num_stored() == 1


def test_a_terminals_interrupt_reaches_the_whole_group_and_still_keeps_all(driven: Driven):
    process = driven.start()
    assert wait_until(lambda: len(driven.pids()) == 2, 30)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=10)
    assert output == "interrupt 1 3\n"


def test_a_store_lost_in_mid_sweep_costs_no_record_and_no_second_measurement(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("BENCH_SPOOL", str(tmp_path / "spool"))
    cells = [fault_cell("fake", seed=seed) for seed in range(3)]

    class Loses(Notes):
        def finished(self, cell: Cell, result: Record | Recalled) -> None:
            super().finished(cell, result)
            with store._engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA query_only=ON")

    first = sweep(cells, store, Loses(store), store_patience=0.1)
    assert (len(first.records), first.num_undelivered, first.complete) == (3, 2, False)
    assert len(store.records("faults")) == 1
    with store._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only=OFF")
    second = sweep(cells, store)
    assert (second.num_held, second.num_undelivered, second.complete) == (3, 0, True)
