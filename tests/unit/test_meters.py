"""Clock, phases, host memory and device lock, with a fake clock or the real kernel."""

import multiprocessing
import os
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from bench.meters import (
    FakeClock,
    HostMemory,
    Phases,
    Ticker,
    WaitMeter,
    device_lock,
    waiting_seconds,
)
from bench.record import Progress

MEGABYTE = 1 << 20


def touch(num_bytes: int) -> bytearray:
    """Resident memory: every page is written to."""
    block = bytearray(num_bytes)
    block[::4096] = b"\1" * len(block[::4096])
    return block


def make_phases() -> tuple[FakeClock, Phases, list[str]]:
    clock, announced = FakeClock(100.0), []

    def emit(progress: Progress) -> None:
        announced.append(progress.phase)

    return clock, Phases(clock, emit), announced


def test_a_phase_counts_its_seconds():
    clock, phases, announced = make_phases()
    with phases.phase("load"):
        clock.advance(2.0)
    assert phases.seconds() == {"load": 2.0}
    assert announced == ["load"]


def test_an_outer_phase_does_not_count_what_its_inner_phase_took():
    clock, phases, _ = make_phases()
    with phases.phase("adapt"):
        clock.advance(1.0)
        with phases.phase("features"):
            clock.advance(10.0)
        clock.advance(0.5)
    assert phases.seconds() == {"adapt": 1.5, "features": 10.0}


def test_time_between_phases_counts_for_none():
    clock, phases, _ = make_phases()
    with phases.phase("load"):
        clock.advance(1.0)
    clock.advance(50.0)
    with phases.phase("train"):
        clock.advance(2.0)
    assert sum(phases.seconds().values()) == 3.0


def test_a_phase_that_comes_again_adds_up():
    clock, phases, _ = make_phases()
    for seconds in (1.0, 2.0):
        with phases.phase("train"):
            clock.advance(seconds)
    assert phases.seconds() == {"train": 3.0}


def test_a_phase_within_itself_is_not_counted_twice():
    clock, phases, _ = make_phases()
    with phases.phase("train"):
        clock.advance(1.0)
        with phases.phase("train"):
            clock.advance(2.0)
    assert phases.seconds() == {"train": 3.0}


def test_an_open_phase_counts_up_to_now_and_only_once():
    clock, phases, _ = make_phases()
    with phases.phase("train"):
        clock.advance(1.0)
        assert phases.seconds() == {"train": 1.0}
        clock.advance(2.0)
    assert phases.seconds() == {"train": 3.0}


def test_the_outer_phase_is_announced_again_when_it_goes_on():
    _, phases, announced = make_phases()
    with phases.phase("adapt"), phases.phase("features"):
        pass
    assert announced == ["adapt", "features", "adapt"]


def test_after_an_exception_the_failing_phase_stays_the_last_announced():
    clock, phases, announced = make_phases()
    with pytest.raises(ValueError, match="boom"), phases.phase("adapt"), phases.phase("solve"):
        clock.advance(4.0)
        raise ValueError("boom")
    assert announced == ["adapt", "solve"]
    assert phases.seconds() == {"adapt": 0.0, "solve": 4.0}


@pytest.mark.parametrize("exact", [None, False], ids=["kernel", "sampled"])
def test_memory_that_came_and_went_is_in_the_peak(exact):
    host = HostMemory(exact=exact)
    block = touch(200 * MEGABYTE)
    time.sleep(0.05)
    del block
    host.close()
    assert 190 * MEGABYTE < host.peak_above_floor() < 260 * MEGABYTE


@pytest.mark.parametrize("exact", [None, False], ids=["kernel", "sampled"])
def test_a_reset_begins_a_new_peak_and_keeps_the_one_since_the_start(exact):
    host = HostMemory(exact=exact)
    block = touch(200 * MEGABYTE)
    time.sleep(0.05)
    del block
    host.reset()
    block = touch(60 * MEGABYTE)
    time.sleep(0.05)
    del block
    assert 50 * MEGABYTE < host.pass_peak_above_floor() < 120 * MEGABYTE
    assert host.peak_above_floor() > 190 * MEGABYTE
    host.close()


def test_memory_held_from_before_is_in_the_floor():
    held = touch(150 * MEGABYTE)
    host = HostMemory()
    assert host.floor_bytes > 150 * MEGABYTE
    assert host.peak_above_floor() < 50 * MEGABYTE
    del held


def test_a_ticker_tells_how_far_it_is_at_most_once_a_second():
    clock, told = FakeClock(), []
    ticker = Ticker("features", 100, told.append, clock)
    for _ in range(10):
        clock.advance(0.3)
        ticker.add(10)
    assert [(tick.phase, tick.num_done, tick.num_total) for tick in told] == [
        ("features", 40, 100),
        ("features", 80, 100),
    ]


def spin(stop: Event) -> None:
    while not stop.is_set():
        sum(range(10_000))


def test_waiting_for_a_cpu_grows_while_others_take_them_all():
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    others = [
        context.Process(target=spin, args=(stop,), daemon=True)
        for _ in range(2 * len(os.sched_getaffinity(0)))
    ]
    for other in others:
        other.start()
    time.sleep(1)
    meters = [WaitMeter(time.perf_counter, num_threads) for num_threads in (1, 2)]
    before, until = waiting_seconds(), time.perf_counter() + 1
    while time.perf_counter() < until:
        pass
    after = waiting_seconds()
    alone, shared = (meter.fraction() for meter in meters)
    stop.set()
    for other in others:
        other.join(30)
    assert before is not None
    assert after is not None
    assert 0.1 < after - before < 1.1
    assert alone is not None
    assert shared is not None
    assert 0.1 < alone < 1.1
    assert shared == pytest.approx(alone / 2, rel=0.05)


def hold(root: Path, exclusive: bool, asks: Event, holds: Event, release: Event) -> None:
    asks.set()
    with device_lock(root, "cpu", exclusive=exclusive):
        holds.set()
        release.wait(30)


class Holder:
    """Another process that asks for the lock."""

    def __init__(self, root: Path, *, exclusive: bool) -> None:
        context = multiprocessing.get_context("spawn")
        asks, self.holds, self.release = (context.Event() for _ in range(3))
        self.process = context.Process(
            target=hold, args=(root, exclusive, asks, self.holds, self.release), daemon=True
        )
        self.process.start()
        assert asks.wait(60)

    def end(self) -> None:
        self.release.set()
        self.process.join(30)


def test_cells_share_a_device(tmp_path):
    other = Holder(tmp_path, exclusive=False)
    assert other.holds.wait(30)
    with device_lock(tmp_path, "cpu", exclusive=False):
        pass
    other.end()


def test_a_profile_waits_for_cells_and_keeps_newcomers_out(tmp_path):
    with device_lock(tmp_path, "cpu", exclusive=False):
        profile = Holder(tmp_path, exclusive=True)
        assert not profile.holds.wait(0.3)
        newcomer = Holder(tmp_path, exclusive=False)
        assert not newcomer.holds.wait(0.3)
    assert profile.holds.wait(30)
    assert not newcomer.holds.is_set()
    profile.end()
    assert newcomer.holds.wait(30)
    newcomer.end()


def test_a_shared_hold_rises_to_an_exclusive_one_and_back(tmp_path):
    with device_lock(tmp_path, "cpu", exclusive=False):
        with device_lock(tmp_path, "cpu", exclusive=True):
            other = Holder(tmp_path, exclusive=False)
            assert not other.holds.wait(0.3)
        assert other.holds.wait(30)
        other.end()


def test_other_devices_are_not_locked(tmp_path):
    other = Holder(tmp_path, exclusive=True)
    assert other.holds.wait(30)
    with device_lock(tmp_path, "cuda:0", exclusive=True):
        assert other.process.is_alive()
    other.end()


def test_a_lock_ends_with_the_process_that_held_it(tmp_path):
    other = Holder(tmp_path, exclusive=True)
    assert other.holds.wait(30)
    other.process.kill()
    other.process.join(30)
    with device_lock(tmp_path, "cpu", exclusive=True):
        assert not other.process.is_alive()
