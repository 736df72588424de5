"""Profiles of real steps and modules, on the real clock or on a fake one."""

import fcntl
import gc
import os
import subprocess
import sys
import time
from dataclasses import replace
from itertools import count

import pytest
import timm
import torch
from torch import Tensor, nn

from bench.meters import FakeClock, HostMemory, count_flops, synchronize
from bench.profile import (
    ProfileSettings,
    profile_inference,
    profile_training,
    summarise_latency,
)
from bench.record import NumericsPlan

CPU = torch.device("cpu")
MEGABYTE = 1 << 20
LABELS = torch.zeros(16, dtype=torch.int64)
INPUTS = torch.zeros(16, 3, 8, 8)


def fake_settings(clock: FakeClock, budget: float = 3.0) -> ProfileSettings:
    return ProfileSettings(device=CPU, budget_seconds=budget, clock=clock)


def profile_step(step, settings: ProfileSettings):
    return profile_training(step, INPUTS, LABELS, settings=settings)


class TakesFakeSeconds(nn.Module):
    """A classifier whose every example takes fake time."""

    def __init__(self, clock: FakeClock, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds
        self.linear = nn.Linear(3 * 8 * 8, 4)
        self.modes: set[tuple[bool, bool]] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.modes.add((self.training, torch.is_inference_mode_enabled()))
        self.clock.advance(self.seconds * len(x))
        return self.linear(x.flatten(1))


def profile_fake(clock: FakeClock, seconds: float, *, batch: int = 64, end_to_end=None):
    return profile_inference(
        TakesFakeSeconds(clock, seconds),
        torch.zeros(batch, 3, 8, 8),
        plan=NumericsPlan(),
        end_to_end=end_to_end,
        settings=fake_settings(clock),
    )


def test_a_step_that_sleeps_five_milliseconds_takes_five_to_fifteen():
    settings = ProfileSettings(device=CPU, budget_seconds=0.3)
    profile = profile_step(lambda inputs, labels: time.sleep(0.005), settings)
    assert min(profile.step_seconds) >= 0.005
    assert sorted(profile.step_seconds)[len(profile.step_seconds) // 4] < 0.015
    assert 16 / 0.015 < profile.examples_per_second <= 16 / 0.005


def test_throughput_is_that_of_the_median_step():
    clock, numbers = FakeClock(), count()

    def step(inputs: Tensor, labels: Tensor) -> None:
        clock.advance(100.0 if next(numbers) == 4 else 0.5)

    profile = profile_step(step, fake_settings(clock))
    assert 100.0 in profile.step_seconds
    assert profile.examples_per_second == 32.0


def test_warm_up_is_not_among_the_repeats():
    clock, numbers = FakeClock(), count()

    def step(inputs: Tensor, labels: Tensor) -> None:
        clock.advance(0.9 if next(numbers) < 2 else 0.01)

    profile = profile_step(step, fake_settings(clock))
    assert max(profile.step_seconds) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("step_seconds", "repeats"), [(0.25, 9), (60.0, 5), (0.0001, 200)], ids=["budget", "min", "max"]
)
def test_repeats_follow_from_the_budget_within_five_and_two_hundred(step_seconds, repeats):
    clock = FakeClock()
    profile = profile_step(lambda inputs, labels: clock.advance(step_seconds), fake_settings(clock))
    assert len(profile.step_seconds) == repeats


def test_a_step_gets_the_batch_as_it_is():
    seen = set()
    profile_step(
        lambda inputs, labels: seen.add((inputs.shape, labels.shape)),
        ProfileSettings(device=CPU, budget_seconds=0.01),
    )
    assert seen == {(INPUTS.shape, LABELS.shape)}


def test_collection_is_off_while_timing_and_on_again_afterwards():
    states = []
    profile_step(
        lambda inputs, labels: states.append(gc.isenabled()),
        ProfileSettings(device=CPU, budget_seconds=0.01),
    )
    assert not any(states[3:])
    assert gc.isenabled()


def test_a_step_that_fails_leaves_collection_on():
    clock, numbers = FakeClock(), count()

    def step(inputs: Tensor, labels: Tensor) -> None:
        clock.advance(0.1)
        if next(numbers) == 6:
            raise RuntimeError("broken step")

    with pytest.raises(RuntimeError, match="broken step"):
        profile_step(step, fake_settings(clock))
    assert gc.isenabled()


def test_a_step_that_takes_two_hundred_megabytes_shows_them():
    def step(inputs: Tensor, labels: Tensor) -> None:
        torch.ones(200 * MEGABYTE // 4).sum()

    settings = ProfileSettings(device=CPU, budget_seconds=0.2, host=HostMemory())
    memory = profile_step(step, settings).memory
    assert memory.host_bytes is not None
    assert 180 * MEGABYTE < memory.host_bytes < 300 * MEGABYTE
    assert (memory.allocated_bytes, memory.reserved_bytes, memory.process_bytes) == (None,) * 3


def test_what_the_warm_up_took_and_gave_back_is_not_in_the_peak():
    clock, numbers = FakeClock(), count()

    def step(inputs: Tensor, labels: Tensor) -> None:
        clock.advance(0.1)
        torch.ones((400 if next(numbers) < 3 else 100) * MEGABYTE // 4).sum()

    # What other tests left behind must not be freed between the floor and the peak.
    gc.collect()
    host = HostMemory()
    settings = replace(fake_settings(clock), host=host)
    memory = profile_step(step, settings).memory
    assert memory.host_bytes is not None
    assert 75 * MEGABYTE < memory.host_bytes < 150 * MEGABYTE
    assert host.peak_above_floor() > 380 * MEGABYTE


def test_host_memory_without_a_meter_and_energy_of_a_cpu_are_unmeasured():
    profile = profile_step(lambda *_: None, ProfileSettings(device=CPU, budget_seconds=0.01))
    assert profile.memory.host_bytes is None
    assert profile.energy_joules_per_example is None


def test_a_profile_that_shared_its_cpu_says_for_how_long_it_waited():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("threads cannot be tied to a CPU here")
    allowed = os.sched_getaffinity(0)
    only = min(allowed)
    spin = f"import os; os.sched_setaffinity(0, {{{only}}})\nwhile True: pass"
    other = subprocess.Popen([sys.executable, "-c", spin])

    def step(inputs: Tensor, labels: Tensor) -> None:
        until = time.perf_counter() + 0.02
        while time.perf_counter() < until:
            pass

    os.sched_setaffinity(0, {only})
    try:
        profile = profile_step(step, ProfileSettings(device=CPU, budget_seconds=0.5))
    finally:
        os.sched_setaffinity(0, allowed)
        other.kill()
        other.wait()
    assert profile.waiting_fraction is not None
    assert 0.1 / torch.get_num_threads() < profile.waiting_fraction <= 1


def test_the_profile_is_alone_on_its_device(tmp_path):
    refusals = []

    def step(inputs: Tensor, labels: Tensor) -> None:
        (path,) = (tmp_path / "locks").glob("*-cpu")
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                refusals.append(True)

    profile = profile_step(
        step, ProfileSettings(device=CPU, budget_seconds=0.01, lock_root=tmp_path)
    )
    assert len(refusals) >= len(profile.step_seconds)


def test_latency_is_given_for_one_and_for_the_throughput_batch_and_between():
    profile = profile_fake(FakeClock(), 0.0001)
    by_size = {latency.batch_size: latency for latency in profile.latencies}
    assert list(by_size) == [1, 8, 32, 64]
    assert by_size[1].p50_seconds == pytest.approx(0.0001)
    assert by_size[64].p50_seconds == pytest.approx(0.0064)
    assert by_size[64].repeats == len(profile.batch_seconds)
    assert profile.examples_per_second == pytest.approx(10_000)
    assert profile.batch_size == 64


def test_sizes_between_are_left_out_when_the_budget_is_spent():
    profile = profile_fake(FakeClock(), 0.05)
    assert [latency.batch_size for latency in profile.latencies] == [1, 64]


def test_a_throughput_batch_of_one_is_measured_once():
    profile = profile_fake(FakeClock(), 0.01, batch=1)
    assert [latency.batch_size for latency in profile.latencies] == [1]


def test_a_fast_profile_keeps_to_its_budget():
    clock = FakeClock()
    profile_fake(clock, 0.0005, end_to_end=lambda: clock.advance(0.01))
    assert clock() < 3.3


def test_end_to_end_is_timed_by_itself():
    clock = FakeClock()
    profile = profile_fake(clock, 0.0001, end_to_end=lambda: clock.advance(0.02))
    assert profile.end_to_end is not None
    assert profile.end_to_end.batch_size == 1
    assert profile.end_to_end.p50_seconds == pytest.approx(0.02)
    assert profile_fake(clock, 0.0001).end_to_end is None


@pytest.mark.parametrize("training", [True, False])
def test_inference_runs_in_eval_and_inference_mode_and_gives_the_mode_back(training):
    clock = FakeClock()
    classifier = TakesFakeSeconds(clock, 0.01).train(training)
    profile_inference(
        classifier,
        INPUTS,
        plan=NumericsPlan(),
        end_to_end=None,
        settings=fake_settings(clock),
    )
    assert (False, True) in classifier.modes
    assert not any(mode for mode, _ in classifier.modes)
    assert classifier.training is training


def test_percentiles_need_enough_repeats():
    seconds = [float(number) for number in range(1, 201)]
    few, more, many = (summarise_latency(1, seconds[:repeats]) for repeats in (19, 20, 100))
    assert (few.p50_seconds, few.p95_seconds, few.p99_seconds) == (10.0, None, None)
    assert (more.p95_seconds, more.p99_seconds) == (19.0, None)
    assert (many.p50_seconds, many.p95_seconds, many.p99_seconds) == (50.5, 95.0, 99.0)


def test_flops_count_a_multiply_and_an_add_as_two_per_example():
    assert count_flops(nn.Linear(10, 7), torch.zeros(32, 10)).per_example == 2 * 10 * 7
    convolution = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    flops = count_flops(convolution, torch.zeros(2, 3, 16, 16)).per_example
    assert flops == 2 * 16 * 16 * 8 * 3 * 9


def test_flops_of_attention_are_counted():
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    assert count_flops(Attention(), torch.zeros(5, 2, 10, 4)).per_example == 2 * 2 * 2 * 10 * 10 * 4


def test_flops_that_cannot_be_counted_are_none_with_the_reason():
    failed = count_flops(nn.Linear(10, 7), torch.zeros(2, 9))
    assert failed.per_example is None
    assert "shapes cannot be multiplied" in (failed.reason or "")
    nothing = count_flops(nn.Flatten(), torch.zeros(2, 3, 3))
    assert (nothing.per_example, nothing.reason) == (None, "no operation that has a formula")


def test_waiting_for_a_cpu_is_no_error():
    synchronize(CPU)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_real_backbone_has_a_whole_profile(name, tmp_path):
    model = timm.create_model(name, num_classes=4)
    profile = profile_inference(
        model,
        torch.randn(16, 3, *model.default_cfg["input_size"][1:]),
        plan=NumericsPlan(precision="bf16", memory_format="channels_last"),
        end_to_end=lambda: None,
        settings=ProfileSettings(
            device=CPU, budget_seconds=0.5, host=HostMemory(), lock_root=tmp_path
        ),
    )
    assert profile.forward_flops is not None
    assert profile.forward_flops > 1e6
    assert len(profile.batch_seconds) >= 5
    assert profile.latencies[0].batch_size == 1
    assert profile.memory.host_bytes is not None
    assert profile.memory.host_bytes > 0


def test_a_real_training_step_has_a_whole_profile():
    model = timm.create_model("test_resnet", num_classes=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step(inputs: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()

    profile = profile_training(
        step,
        torch.randn(8, 3, 64, 64),
        torch.arange(8) % 4,
        settings=ProfileSettings(device=CPU, budget_seconds=0.3, host=HostMemory()),
    )
    assert profile.batch_size == 8
    assert len(profile.step_seconds) >= 5
    assert profile.examples_per_second > 0
