"""Speed, latency, memory and energy of a model and of its training step; knows no cell, no split.

Warm-up is excluded, the device is waited for around every repeat, garbage collection is off while a
clock runs, and raw repeats are kept. A repeat count follows from the seconds budget: never fewer
than 5, even over budget, and never more than 200.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from bench.meters import (
    Clock,
    CudaMemory,
    DeviceEnergy,
    HostMemory,
    WaitMeter,
    count_flops,
    device_lock,
    release_unused,
    synchronize,
)
from bench.numerics import apply_plan, autocast, make_pass, prepare_inputs
from bench.record import InferProfile, Latency, Memory, NumericsPlan, TrainProfile

__all__ = ["ProfileSettings", "device_lock", "profile_inference", "profile_training"]

MIN_REPEATS = 5
MAX_REPEATS = 200
P95_REPEATS = 20
P99_REPEATS = 100

_WARM_UPS = 3
# Shares of the budget: throughput, a batch of one, one example end to end; sizes between get 0.1.
_THROUGHPUT, _SINGLE, _END_TO_END, _BETWEEN = 0.4, 0.25, 0.15, 0.1
_BETWEEN_SIZES = (8, 32)


@dataclass(frozen=True)
class ProfileSettings:
    """How a profile is taken.

    Attributes:
        device: Where the model and its inputs are.
        budget_seconds: Wall seconds for one profile, warm-up included; `limits.profile_time`.
        host: The child's meter with its floor at start; None leaves host memory unmeasured.
        lock_root: Root of the artifact cache whose device lock is held alone; None takes no lock.
        clock: Where seconds come from.
    """

    device: torch.device
    budget_seconds: float = 3.0
    host: HostMemory | None = None
    lock_root: Path | None = None
    clock: Clock = time.perf_counter


def profile_inference(
    classifier: nn.Module,
    inputs: Tensor,
    *,
    plan: NumericsPlan,
    end_to_end: Callable[[], None] | None,
    settings: ProfileSettings,
) -> InferProfile:
    """Measure the plain inference pass: throughput, latencies, memory, FLOPs and energy.

    Memory and energy are those of the throughput batch. Latency is given for a batch of one, for
    the throughput batch, and for 8 and 32 where these lie between and the budget allows them; a
    plan that compiles does so for the throughput batch alone, outside of what is measured.
    The model is run in eval mode and afterwards is in the mode it had; the plan's memory format
    stays.

    Args:
        classifier: Normalised inputs, shape (B, 3, H, W) -> logits, shape (B, K).
        inputs: The throughput batch on the device, float32.
        plan: Precision and memory format to run in.
        end_to_end: Takes one encoded example to a label, preprocessing included; None is not timed.
        settings: Device, budget, meters.
    """
    training = classifier.training
    apply_plan(classifier.eval(), plan)
    batch = prepare_inputs(inputs, plan)
    forward = make_pass(classifier, plan, len(batch))

    def run(size: int) -> None:
        with torch.inference_mode(), autocast(plan, settings.device):
            forward(batch[:size])

    try:
        with _alone(settings):
            if plan.compiled:
                run(len(batch))
            return _infer_profile(run, batch, end_to_end, settings, classifier)
    finally:
        classifier.train(training)


def profile_training(
    step: Callable[[Tensor, Tensor], None],
    inputs: Tensor,
    labels: Tensor,
    *,
    settings: ProfileSettings,
) -> TrainProfile:
    """Measure the plain training step on one batch in memory: speed, memory, energy.

    Args:
        step: Forward, backward and update in their numerics; it changes the model it closes over.
        inputs: Shape (B, 3, H, W), on the device.
        labels: Class indices, int64, shape (B,), on the device.
        settings: Device, budget, meters.
    """
    with _alone(settings):
        waiting = _meter_waiting(settings)
        measured = _measure_pass(partial(step, inputs, labels), settings.budget_seconds, settings)
        waited = waiting()
    return TrainProfile(
        waiting_fraction=waited,
        batch_size=len(inputs),
        step_seconds=measured.seconds,
        examples_per_second=len(inputs) / median(measured.seconds),
        memory=measured.memory,
        energy_joules_per_example=measured.energy_per_example(len(inputs)),
    )


def summarise_latency(batch_size: int, seconds: Sequence[float]) -> Latency:
    """Return the percentiles that so many repeats can support; the others are None.

    Args:
        batch_size: Examples per call.
        seconds: One value per repeat.

    Source: nearest-rank percentiles, so that each is a repeat that happened.
    """
    return Latency(
        batch_size=batch_size,
        repeats=len(seconds),
        p50_seconds=median(seconds),
        p95_seconds=_percentile(seconds, 95) if len(seconds) >= P95_REPEATS else None,
        p99_seconds=_percentile(seconds, 99) if len(seconds) >= P99_REPEATS else None,
    )


def _percentile(values: Sequence[float], percent: int) -> float:
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


@contextmanager
def _alone(settings: ProfileSettings) -> Iterator[None]:
    if settings.lock_root is None:
        yield
        return
    with device_lock(settings.lock_root, str(settings.device), exclusive=True):
        yield


def _meter_waiting(settings: ProfileSettings) -> Callable[[], float | None]:
    """Return what gives the share of time waited for CPUs from now; a GPU goes on meanwhile."""
    if settings.device.type != "cpu":
        return lambda: None
    return WaitMeter(settings.clock, torch.get_num_threads()).fraction


def _infer_profile(
    run: Callable[[int], None],
    batch: Tensor,
    end_to_end: Callable[[], None] | None,
    settings: ProfileSettings,
    classifier: nn.Module,
) -> InferProfile:
    size, budget = len(batch), settings.budget_seconds
    waiting = _meter_waiting(settings)
    deadline = settings.clock() + budget
    measured = _measure_pass(partial(run, size), budget * _THROUGHPUT, settings)
    latencies = {size: measured.seconds}
    if size > 1:
        latencies[1] = _repeat(partial(run, 1), budget * _SINGLE, settings)
    whole = None
    if end_to_end is not None:
        whole = summarise_latency(1, _repeat(end_to_end, budget * _END_TO_END, settings))
    for between in _BETWEEN_SIZES:
        per_call = median(measured.seconds) * between / size
        enough = deadline - settings.clock() > per_call * (MIN_REPEATS + _WARM_UPS)
        if 1 < between < size and enough:
            latencies[between] = _repeat(partial(run, between), budget * _BETWEEN, settings)
    return InferProfile(
        waiting_fraction=waiting(),
        batch_size=size,
        batch_seconds=measured.seconds,
        examples_per_second=size / median(measured.seconds),
        latencies=tuple(summarise_latency(n, latencies[n]) for n in sorted(latencies)),
        end_to_end=whole,
        memory=measured.memory,
        forward_flops=count_flops(classifier, batch).per_example,
        energy_joules_per_example=measured.energy_per_example(size),
    )


@dataclass(frozen=True)
class _Measured:
    seconds: tuple[float, ...]
    memory: Memory
    joules: float | None

    def energy_per_example(self, batch_size: int) -> float | None:
        if self.joules is None:
            return None
        return self.joules / (len(self.seconds) * batch_size)


def _measure_pass(call: Callable[[], None], budget: float, settings: ProfileSettings) -> _Measured:
    """Time a pass with its memory and energy; what the warm-up took stays out of all three."""
    # Given back before the warm-up, so that no repeat pays for fetching it again.
    release_unused(settings.device)
    device_memory = CudaMemory(settings.device)
    energy = DeviceEnergy(settings.device)

    def start_meters() -> None:
        device_memory.reset()
        if settings.host is not None:
            settings.host.reset()
        energy.start()

    seconds = _repeat(call, budget, settings, before=start_meters)
    joules = energy.joules()
    host_bytes = None if settings.host is None else settings.host.pass_peak_above_floor()
    return _Measured(seconds, device_memory.read(host_bytes=host_bytes), joules)


def _repeat(
    call: Callable[[], None],
    budget: float,
    settings: ProfileSettings,
    *,
    before: Callable[[], None] | None = None,
) -> tuple[float, ...]:
    """Return the seconds of each repeat after the warm-up.

    Args:
        call: What is timed.
        budget: Seconds, warm-up included.
        settings: Device and clock.
        before: Called between warm-up and repeats.
    """
    deadline = settings.clock() + budget
    for _ in range(_WARM_UPS):
        call()
        synchronize(settings.device)
        if settings.clock() > deadline:
            break
    if before is not None:
        before()
    seconds: list[float] = []
    with _collection_off():
        while len(seconds) < MIN_REPEATS or (
            settings.clock() < deadline and len(seconds) < MAX_REPEATS
        ):
            seconds.append(_time_once(call, settings))
    return tuple(seconds)


def _time_once(call: Callable[[], None], settings: ProfileSettings) -> float:
    synchronize(settings.device)
    began = settings.clock()
    call()
    synchronize(settings.device)
    return settings.clock() - began


@contextmanager
def _collection_off() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
