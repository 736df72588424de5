import os
import signal
import subprocess
import textwrap
import time
from multiprocessing import forkserver
from pathlib import Path

import psutil
import pytest

from bench.environment import num_cores
from bench.errors import ExecutorError, UsageError
from bench.executors.local import LocalExecutor
from bench.record import Progress, Recalled, Record, Status
from bench.spec import Job
from tests.faults import (
    PYTHON,
    TARGET,
    environ_with_faults,
    fault_job,
    faults_on_path,
    is_running,
    read_pids,
    wait_until,
)


@pytest.fixture(autouse=True)
def _faults(monkeypatch: pytest.MonkeyPatch):
    with faults_on_path(monkeypatch):
        yield


def run_jobs(*jobs: Job, **options) -> list[Record | Recalled]:
    with make_executor(**options) as executor:
        return [result for _, result in executor.run(jobs, lambda job, progress: None)]


def make_executor(**options) -> LocalExecutor:
    options = {"target": TARGET, "preload_modules": ()} | options
    return LocalExecutor(options.pop("devices", ("cpu",)), **options)


def test_a_cell_comes_back_as_its_record_with_predictions():
    (record,) = run_jobs(fault_job("fake"))
    assert record.status is Status.OK
    assert record.test.accuracy == 0.75
    assert record.predictions[0].ids == bytes(range(256))


def test_progress_is_told_from_the_start_on():
    told: list[Progress] = []
    with make_executor() as executor:
        list(executor.run([fault_job("fake")], lambda job, progress: told.append(progress)))
    assert [progress.phase for progress in told] == ["start", "train"]
    assert (told[1].epoch, told[1].num_epochs, told[1].val_accuracy) == (1, 2, 0.5)


def test_a_key_the_run_holds_is_recalled_and_not_measured():
    job = fault_job("fake")
    known = job.model_copy(update={"known_keys": frozenset({f"key of {job.cell.label}"})})
    assert run_jobs(known) == [
        Recalled(request_key=job.request_key, key=f"key of {job.cell.label}")
    ]


def test_each_ending_has_its_status_and_the_other_cells_are_ok():
    jobs = [
        fault_job("fake", seed=1),
        fault_job("fault_crash"),
        fault_job("fault_exit"),
        fault_job("fault_error"),
        fault_job("fault_diverge"),
        fault_job("fake", seed=2),
    ]
    statuses = [record.status.value for record in run_jobs(*jobs)]
    assert statuses == ["ok", "crashed", "crashed", "error", "diverged", "ok"]


def test_a_crash_names_its_signal_its_phase_and_the_line():
    (record,) = run_jobs(fault_job("fault_crash"))
    assert (record.failure.kind, record.failure.phase) == ("SIGSEGV", "train")
    assert record.failure.message == (
        "the process of this cell was ended by SIGSEGV, which bench did not send."
    )
    assert "bench_faults.py" in record.failure.traceback
    assert "in crash" in record.failure.traceback
    assert record.test is None


def test_an_exit_behind_pythons_back_keeps_what_the_cell_had_printed():
    (record,) = run_jobs(fault_job("fault_exit"))
    assert record.failure.kind == "exit code 7"
    assert record.failure.traceback == "leaving with code 7"


def test_a_cell_killed_by_somebody_else_is_crashed(tmp_path: Path):
    marker = tmp_path / "pids"

    def kill(job: Job, progress: Progress) -> None:
        if job.cell.seed == 0 and progress.phase == "train":
            assert wait_until(lambda: read_pids(marker))
            os.kill(read_pids(marker)[0], signal.SIGKILL)

    with make_executor() as executor:
        jobs = [fault_job("fake", seconds=60, marker=str(marker)), fault_job("fake", seed=1)]
        killed, other = (result for _, result in executor.run(jobs, kill))
    assert (killed.status, killed.failure.kind) == (Status.CRASHED, "SIGKILL")
    assert killed.wall_seconds < 30
    assert other.status is Status.OK


def test_a_cell_that_hangs_is_ended_with_all_it_started_and_says_where_it_was(tmp_path: Path):
    marker = tmp_path / "pids"
    others: list[psutil.Process] = []

    def find_descendants(job: Job, progress: Progress) -> None:
        if progress.phase == "train":
            assert wait_until(lambda: read_pids(marker))
            cell = psutil.Process(read_pids(marker)[0])
            assert wait_until(cell.children)
            others.extend([cell, *cell.children()])

    with make_executor() as executor:
        job = fault_job("fault_hang", limits={"cell_timeout": 1.0}, marker=str(marker))
        ((_, record),) = executor.run([job], find_descendants)
    assert record.status is Status.TIMEOUT
    assert record.failure.message.startswith(
        "ran longer than limits.cell_timeout (1 s) and was ended."
    )
    assert "in hang" in record.failure.traceback
    assert 1.0 <= record.wall_seconds < 5.0
    assert len(others) == 2
    assert wait_until(lambda: not any(is_running(process.pid) for process in others), 2)


def test_a_cell_stuck_in_native_code_is_ended_and_says_where_it_was():
    (record,) = run_jobs(fault_job("fault_stuck", limits={"cell_timeout": 1.0}))
    assert record.status is Status.TIMEOUT
    assert "in stick" in record.failure.traceback


def test_a_cell_that_holds_too_much_memory_is_oom():
    limit = 64 << 20
    (record,) = run_jobs(fault_job("fault_oom", limits={"host_memory": limit}))
    assert record.status is Status.OOM
    assert "more than limits.host_memory (64 MiB)" in record.failure.message
    assert limit < record.host_peak_bytes < 16 * limit


def test_memory_is_not_counted_below_the_floor_at_start():
    # The child's own floor is some tens of MiB, well above this limit.
    (record,) = run_jobs(fault_job("fake", seconds=0.5, limits={"host_memory": 8 << 20}))
    assert record.status is Status.OK


def test_an_executed_function_that_raises_leaves_an_error_with_its_traceback():
    (record,) = run_jobs(fault_job("fake"), target="bench_faults:break_down")
    assert (record.status, record.failure.kind) == (Status.ERROR, "ChildError")
    assert record.failure.message == (
        "the process of this cell failed outside the cell: RuntimeError: execute itself is broken"
    )
    assert "in break_down" in record.failure.traceback


def test_an_answer_that_is_no_record_is_refused():
    with pytest.raises(ExecutorError, match="a cell answered with str, not a record"):
        run_jobs(fault_job("fake"), target="bench_faults:answer_nonsense")


def test_a_cell_that_does_not_end_after_its_result_is_ended(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bench.executors.supervision.EXIT_SECONDS", 0.5)
    began = time.monotonic()
    (record,) = run_jobs(fault_job("fake"), target="bench_faults:linger")
    assert record.status is Status.OK
    assert time.monotonic() - began < 10


def test_a_module_that_does_not_import_stops_the_sweep_with_its_reason():
    with pytest.raises(ExecutorError) as caught:
        run_jobs(fault_job("fake"), preload_modules=("bench_unimportable",))
    assert str(caught.value) == (
        "cells cannot run. bench_unimportable does not import: RuntimeError: operator faults::nms "
        "does not exist. Reinstall it, in a version that fits the torch installed."
    )


def test_a_server_that_dies_at_its_start_is_a_clear_error():
    with pytest.raises(ExecutorError, match="the server that imports torch for all cells ended"):
        run_jobs(fault_job("fake"), preload_modules=("bench_deadly",))


def test_each_device_gets_one_cell_at_a_time():
    running: set[str] = set()
    placed: list[str] = []

    def note(job: Job, progress: Progress) -> None:
        if progress.phase == "start":
            assert job.device not in running
            running.add(job.device)
            placed.append(job.device)

    with make_executor(devices=("cuda:0", "cuda:1")) as executor:
        jobs = [fault_job("fake", seed=seed, seconds=0.3) for seed in range(4)]
        for job, record in executor.run(jobs, note):
            running.remove(job.device)
            assert record.environment.device_name == job.device
    assert placed[:2] == ["cuda:0", "cuda:1"]
    assert sorted(placed) == ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]


def test_two_jobs_run_at_the_same_time():
    began = time.monotonic()
    results = run_jobs(*(fault_job("fake", seed=seed, seconds=1.5) for seed in range(2)), jobs=2)
    assert [record.status for record in results] == [Status.OK, Status.OK]
    assert time.monotonic() - began < 2.9


def test_the_next_job_is_taken_only_after_the_last_result_was_consumed():
    order: list[str] = []

    def jobs():
        for seed in range(3):
            order.append(f"taken {seed}")
            yield fault_job("fake", seed=seed)

    with make_executor() as executor:
        for job, _ in executor.run(jobs(), lambda job, progress: None):
            order.append(f"stored {job.cell.seed}")
    assert order == [f"{what} {seed}" for seed in range(3) for what in ("taken", "stored")]


def test_cores_are_shared_out_among_jobs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (record,) = run_jobs(fault_job("fake"), jobs=2)
    assert record.environment.num_cores == max(1, num_cores() // 2)


def test_omp_num_threads_is_honoured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    (record,) = run_jobs(fault_job("fake"))
    assert record.environment.num_cores == 7


def test_children_have_the_environment_of_their_parent_as_it_is_now(
    monkeypatch: pytest.MonkeyPatch,
):
    with make_executor() as executor:
        list(executor.run([fault_job("fake")], lambda job, progress: None))
        monkeypatch.setenv("FAULTS_TOLD", "afterwards")
        ((_, record),) = executor.run([fault_job("fake")], lambda job, progress: None)
    assert record.environment.packages == {"TOLD": "afterwards"}
    assert "PYTHONSAFEPATH" not in os.environ


def test_closing_the_results_ends_running_cells_at_once(tmp_path: Path):
    marker = tmp_path / "pids"
    with make_executor(jobs=2) as executor:
        jobs = [fault_job("fake"), fault_job("fault_hang", marker=str(marker))]
        results = executor.run(jobs, lambda job, progress: None)
        next(results)
        assert wait_until(lambda: read_pids(marker))
        results.close()
        assert wait_until(lambda: not is_running(read_pids(marker)[0]), 2)


def test_nothing_is_left_of_an_executor_that_was_closed():
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    run_jobs(fault_job("fake"))
    after = {child.pid for child in psutil.Process().children(recursive=True)}
    names = [" ".join(psutil.Process(pid).cmdline()) for pid in after - before]
    # Python's tracker of shared resources serves the whole process and ends with it.
    assert all("resource_tracker" in name for name in names)


def test_fewer_than_one_job_is_refused():
    with pytest.raises(UsageError, match="--jobs 0: at least one cell must run at a time"):
        make_executor(jobs=0)


def test_a_script_without_a_main_guard_is_not_run_again_in_its_cells(tmp_path: Path):
    script = tmp_path / "sweep_it.py"
    script.write_text(
        textwrap.dedent(
            """
            print("script starts", flush=True)
            from bench.executors.local import LocalExecutor
            from tests.faults import TARGET, fault_job
            with LocalExecutor(target=TARGET, preload_modules=()) as executor:
                for _, record in executor.run([fault_job("fake")], lambda job, progress: None):
                    print(record.status.value)
            """
        )
    )
    done = subprocess.run(
        [PYTHON, script], env=environ_with_faults(), capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n") == ["script starts", "ok", ""]


def test_a_module_in_the_working_folder_does_not_take_the_place_of_pythons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "selectors.py").write_text("raise SystemExit('the wrong selectors')\n")
    monkeypatch.chdir(tmp_path)
    (record,) = run_jobs(fault_job("fake"))
    assert record.status is Status.OK


@pytest.mark.slow
def test_the_server_with_torch_computes_nothing_and_its_children_start_fast():
    starts: list[float] = []

    def note(job: Job, progress: Progress) -> None:
        starts.append(time.monotonic())

    with make_executor(preload_modules=None) as executor:
        for _ in executor.run([fault_job("fake", seed=seed) for seed in range(6)], note):
            server = psutil.Process(forkserver._forkserver._forkserver_pid)
            assert server.num_threads() == 1
    launches = [told - placed for placed, told in zip(starts[::2], starts[1::2], strict=True)]
    assert min(launches[1:]) < 0.3
