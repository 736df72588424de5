import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.executors import devices
from bench.executors.devices import choose_devices
from bench.executors.failures import Ending, ended_early, failed_record, last_lines
from bench.executors.host import oom_kills
from bench.record import Failure, Status
from bench.spec import Cell, Job


def test_a_kill_that_the_kernels_lack_of_memory_explains_is_oom():
    status, failure = ended_early(-signal.SIGKILL, "train", "", kernel_out_of_memory=True)
    assert status is Status.OOM
    assert failure.message.startswith("killed by the kernel, which had run out of memory.")


def test_an_unexplained_kill_is_crashed():
    status, failure = ended_early(-signal.SIGKILL, "train", "", kernel_out_of_memory=False)
    assert (status, failure.kind, failure.phase) == (Status.CRASHED, "SIGKILL", "train")


def test_another_signal_is_crashed_even_when_memory_was_short():
    status, failure = ended_early(-signal.SIGBUS, None, "", kernel_out_of_memory=True)
    assert (status, failure.kind) == (Status.CRASHED, "SIGBUS")


def test_a_signal_without_a_name_is_given_by_its_number():
    _, failure = ended_early(-60, None, "", kernel_out_of_memory=False)
    assert failure.kind == "signal 60"


def test_a_child_that_failed_in_silence_says_so():
    status, failure = ended_early(1, None, "  \n", kernel_out_of_memory=False)
    assert status is Status.ERROR
    assert failure.message.endswith("failed outside the cell: it printed nothing")


def test_the_tail_is_twenty_lines_without_the_list_of_extension_modules():
    lines = [f"line {number}" for number in range(30)] + ["Extension modules: numpy, torch"]
    assert last_lines(lines).split("\n") == [f"line {number}" for number in range(10, 30)]


def test_a_failed_record_has_no_score_and_belongs_to_its_run():
    cell = Cell(suite="s", backbone="timm/x", dataset="digits", strategy="full")
    job = Job(cell=cell, run_id=7, run_scope="scope", request_key="request")
    failure = Failure(kind="SIGSEGV", message="…")
    ending = Ending(Status.CRASHED, failure, datetime.now(UTC), wall_seconds=2.5)
    record = failed_record(job, ending)
    assert (record.run_id, record.request_key, record.key) == (7, "request", None)
    assert (record.status, record.failure, record.wall_seconds) == (Status.CRASHED, failure, 2.5)
    assert (record.test, record.host_peak_bytes, record.standalone_seconds) == (None, None, None)


def test_kills_by_the_kernel_are_read_from_its_counters(tmp_path: Path):
    vmstat = tmp_path / "vmstat"
    assert oom_kills(vmstat) is None
    vmstat.write_text("nr_free_pages 12\noom_kill 3\n")
    assert oom_kills(vmstat) == 3
    vmstat.write_text("nr_free_pages 12\n")
    assert oom_kills(vmstat) is None


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(devices, "list_devices", lambda: ("cuda:0", "cuda:1", "cpu"))
    monkeypatch.setattr(devices, "device_class", lambda device: device.partition(":")[0])


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ("", ("cuda:0", "cuda:1")),
        ("cuda", ("cuda:0", "cuda:1")),
        ("cuda:1", ("cuda:1",)),
        ("CPU", ("cpu",)),
    ],
)
def test_bench_device_decides_among_what_is_here(
    asked: str, chosen: tuple[str, ...], two_gpus: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("BENCH_DEVICE", asked)
    assert choose_devices() == chosen


def test_gpus_of_another_kind_than_the_first_are_left_out(
    two_gpus: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("BENCH_DEVICE", raising=False)
    monkeypatch.setattr(devices, "device_class", lambda device: f"kind of {device}")
    assert choose_devices() == ("cuda:0",)


def test_without_a_gpu_cells_run_on_the_cpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("BENCH_DEVICE", raising=False)
    monkeypatch.setattr(devices, "list_devices", lambda: ("cpu",))
    assert choose_devices() == ("cpu",)


@pytest.mark.parametrize("asked", ["cuda:7", "tpu", "cuda:"])
def test_a_device_that_is_not_here_is_refused(
    asked: str, two_gpus: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("BENCH_DEVICE", asked)
    with pytest.raises(UsageError) as caught:
        choose_devices()
    assert str(caught.value) == (
        f"no device BENCH_DEVICE='{asked}' here. Known: cuda:0, cuda:1, cpu."
    )
