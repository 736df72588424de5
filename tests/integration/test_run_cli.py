import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from bench.record import Status
from bench.store import open_store
from tests.faults import PYTHON, environ_with_faults, is_running, read_pids, wait_until

SUITE = """
name: {name}
backbones: [{backbone}]
datasets: [{{name: digits, train_examples: 200}}]
strategies: [{strategies}]
image_size: 8
limits: {{cell_timeout: {timeout}, host_memory: 384MiB, profile_time: 0.2s}}
"""


@dataclass
class Desk:
    """A working folder with suites, a store and a cache of its own."""

    folder: Path

    def write_suite(
        self,
        *strategies: str,
        name: str = "faulty",
        backbone: str = "plain/pixels",
        timeout: str = "60s",
    ) -> None:
        text = SUITE.format(
            name=name, backbone=backbone, strategies=", ".join(strategies), timeout=timeout
        )
        (self.folder / f"{name}.yaml").write_text(text)

    def start(self, *arguments: str, command: tuple[str, ...] = (PYTHON, "-m", "bench"), **extra):
        environ = environ_with_faults(BENCH_CACHE=str(self.folder / "cache"), **extra)
        environ.pop("BENCH_STORE", None)
        return subprocess.Popen(
            [*command, *arguments],
            cwd=self.folder,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def bench(self, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **options)
        output, errors = process.communicate(timeout=240)
        return subprocess.CompletedProcess(arguments, process.returncode, output, errors)

    def statuses(self, suite: str = "faulty") -> dict[str, str]:
        with open_store(str(self.folder / "results" / "bench.db"), create=False) as store:
            records = store.records(suite)
        return {record.cell.strategy.name: record.status.value for record in records}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.mark.slow
def test_four_ways_to_fail_have_their_statuses_the_rest_is_ok_and_the_exit_code_is_3(desk: Desk):
    faults = ("fault_oom", "fault_crash", "fault_hang", "fault_diverge")
    desk.write_suite("linear_probe", *faults, timeout="20s")
    done = desk.bench("run", "faulty.yaml")
    assert done.returncode == 3, done.stderr
    assert desk.statuses() == {
        "linear_probe": "ok",
        "fault_oom": "oom",
        "fault_crash": "crashed",
        "fault_hang": "timeout",
        "fault_diverge": "diverged",
    }
    assert "run 1: 5 cells run, 4 of them not ok" in done.stdout
    assert "5 cells to run" in done.stderr
    assert (desk.folder / "report" / "faulty" / "index.html").exists()


@pytest.mark.slow
def test_a_second_run_starts_nothing_imports_no_torch_and_exits_0(desk: Desk):
    desk.write_suite("linear_probe")
    first = desk.bench("run", "faulty.yaml")
    assert first.returncode == 0, first.stderr
    assert "run 1: 1 cell run" in first.stdout

    check = (
        "import sys; from bench.cli import main\n"
        "try:\n    main()\nfinally:\n"
        "    from multiprocessing import forkserver\n"
        "    print('torch' in sys.modules, forkserver._forkserver._forkserver_pid)"
    )
    second = desk.bench("run", "faulty.yaml", command=(PYTHON, "-c", check))
    assert second.returncode == 0, second.stderr
    assert "run 1: 0 cells run, 1 held from before" in second.stdout
    assert second.stdout.splitlines()[-1] == "False None"
    assert "linear_probe" in second.stdout


@pytest.mark.slow
def test_a_cell_killed_in_the_middle_is_crashed_and_the_next_one_runs(desk: Desk):
    marker = desk.folder / "pids"
    desk.write_suite(f"{{name: fault_hang, marker: '{marker}'}}", "fault_diverge")
    process = desk.start("run", "faulty.yaml")
    assert wait_until(lambda: read_pids(marker), 60)
    os.kill(read_pids(marker)[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 3, errors
    assert desk.statuses() == {"fault_hang": "crashed", "fault_diverge": "diverged"}


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on_and_leaves_no_process(desk: Desk):
    marker = desk.folder / "pids"
    desk.write_suite("fault_diverge", f"{{name: fault_hang, marker: '{marker}'}}")
    process = desk.start("run", "faulty.yaml", "--new", BENCH_PRELOAD="")
    assert wait_until(lambda: read_pids(marker), 60)
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 3
    assert output.count("Traceback") == errors.count("Traceback") == 0
    assert "run 1: 1 cell run, 1 of them not ok, 1 without a result" in output
    assert "interrupted: what had finished is kept. Go on with: bench run faulty.yaml\n" in output
    assert desk.statuses() == {"fault_diverge": "diverged"}
    assert wait_until(lambda: not any(is_running(each.pid) for each in family), 2)


@pytest.mark.slow
def test_total_time_that_is_used_up_is_said_with_how_to_go_on(desk: Desk):
    desk.write_suite("fault_diverge", "fault_error")
    path = desk.folder / "faulty.yaml"
    path.write_text(path.read_text().replace("limits: {", "limits: {total_time: 0.001s, "))
    done = desk.bench("run", "faulty.yaml")
    assert done.returncode == 3
    assert "run 1: 0 cells run, 2 without a result" in done.stdout
    assert "limits.total_time is used up: what had finished is kept." in done.stdout


def test_what_no_run_can_fetch_stops_it_before_any_work(desk: Desk):
    desk.write_suite("fake", backbone="faults/lost")
    began = time.monotonic()
    done = desk.bench("run", "faulty.yaml")
    assert done.returncode == 3
    assert done.stderr == (
        "error: missing: weights of faults/lost. To get it: look under the sofa\n"
    )
    assert done.stdout == ""
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--executor", "moon"), "error: no executor 'moon'. Known: local.\n"),
        (
            ("--seeds", "x"),
            "error: --seeds 'x' is not a list of whole numbers such as 0,1,2 "
            "or a range such as 0..9\n",
        ),
    ],
)
def test_a_flag_that_cannot_be_honoured_exits_with_2(
    arguments: tuple[str, ...], message: str, desk: Desk
):
    desk.write_suite("fault_diverge")
    done = desk.bench("run", "faulty.yaml", *arguments)
    assert (done.returncode, done.stderr) == (2, message)
    assert not (desk.folder / "results").exists()


def test_a_suite_that_another_runner_holds_is_left_alone(desk: Desk):
    desk.write_suite("fault_diverge")
    with open_store(str(desk.folder / "results" / "bench.db")) as store, store.lock("faulty"):
        done = desk.bench("run", "faulty.yaml")
    assert done.returncode == 2
    assert f"error: suite 'faulty' is being run by process {os.getpid()} on" in done.stderr
    assert not any(status == Status.OK for status in desk.statuses().values())


def test_the_installed_command_is_the_same(desk: Desk):
    installed = shutil.which("bench", path=str(Path(PYTHON).parent))
    assert installed, "the package is not installed beside this Python"
    done = desk.bench("run", "--executor", "moon", "none.yaml", command=(installed,))
    assert (done.returncode, done.stderr) == (2, "error: no executor 'moon'. Known: local.\n")


@pytest.mark.slow
def test_a_night_is_measured_anew_and_judged_by_a_baseline(desk: Desk):
    desk.write_suite("linear_probe")
    assert desk.bench("run", "faulty.yaml").returncode == 0
    assert desk.bench("baseline", "save", "main", "--from", "faulty").returncode == 0
    # Speed on a machine that others use is no subject of this test.
    loose = "throughput=90%,latency=99%,memory=99%"
    done = desk.bench("run", "faulty.yaml", "--against", "main", "--min-effect", loose)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "run 2: 1 cell run" in done.stdout
    assert "exit code 0: nothing regressed, failed or is missing" in done.stdout
    folder = desk.folder / "report" / "faulty"
    assert "measured in this run" in (folder / "gate.json").read_text()
    assert {path.name for path in folder.glob("gate.*")} == {"gate.md", "gate.json", "gate.xml"}
    assert 'id="trends"' in (folder / "index.html").read_text()

    desk.write_suite("linear_probe", name="other")
    other = desk.bench("run", "other.yaml", "--against", "main")
    assert other.returncode == 4
    assert "error: baseline 'main' is of suite 'faulty', not of 'other'" in other.stderr
    part = desk.bench("run", "faulty.yaml", "--against", "main", "--only", "*")
    assert part.returncode == 2
    assert "--against judges the whole suite: leave out --only and --seeds" in part.stderr


@pytest.mark.slow
def test_repeats_are_runs_of_their_own_and_tell_a_baseline_the_noise(desk: Desk):
    desk.write_suite("linear_probe")
    done = desk.bench("run", "faulty.yaml", "--repeat", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("repeat 2 of 3") == 1
    assert "run 3: 1 cell run" in done.stdout
    with open_store(str(desk.folder / "results" / "bench.db")) as store:
        notes = [run.note for run in store.runs("faulty")]
        assert notes == ["repeat 1 of 3", "repeat 2 of 3", "repeat 3 of 3"]
        keys = {record.key for run in (1, 2, 3) for record in store.records(run_id=run)}
    assert len(keys) == 1
    saved = desk.bench("baseline", "save", "main", "--from", "faulty", "--runs", "3")
    assert saved.returncode == 0, saved.stderr

    # Another machine: nothing of it is known here but what the baseline tells.
    shutil.rmtree(desk.folder / "cache")
    (desk.folder / "results" / "bench.db").unlink()
    loose = "throughput=90%,latency=99%,memory=99%"
    night = desk.bench(
        *("run", "faulty.yaml", "--against", "main", "--repeat", "2", "--min-effect", loose)
    )
    assert night.returncode == 0, night.stdout + night.stderr
    told = json.loads((desk.folder / "report" / "faulty" / "gate.json").read_text())
    costs = [row for row in told["rows"] if row["metric"] == "host_peak_memory_bytes"]
    assert [row["noise_assumed"] for row in costs] == [False]
    with open_store(str(desk.folder / "results" / "bench.db")) as store:
        sources = {
            record.effective.forward.source
            for run in (1, 2)
            for record in store.records(run_id=run)
            if record.effective and record.effective.forward
        }
    assert sources == {"baseline"}
