"""Meters, numerics and profiles on a real CUDA device."""

import os
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from bench.artifacts import ArtifactCache
from bench.environment import collect_environment, device_class, list_devices
from bench.meters import CudaMemory, DeviceEnergy, FakeClock, HostMemory, count_flops
from bench.meters.cuda import nvml_handle, process_bytes
from bench.numerics import autocast, plan_forward, plan_train
from bench.profile import ProfileSettings, profile_inference, profile_training
from bench.record import NumericsPlan
from bench.spec import Numerics

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

DEVICE = torch.device("cuda:0")
MEGABYTE = 1 << 20


@dataclass
class GpuRuntime:
    cache: ArtifactCache
    numerics: Numerics = Numerics.AUTO
    device: torch.device = DEVICE
    num_threads: int = 1


def make_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1),
        nn.Linear(64, 10),
    ).to(DEVICE)  # fmt: skip


def make_batch() -> tuple[Tensor, Tensor]:
    return torch.randn(64, 3, 64, 64, device=DEVICE), torch.arange(64, device=DEVICE) % 10


def test_the_peak_holds_memory_that_came_and_went():
    memory = CudaMemory(DEVICE)
    memory.reset()
    before = torch.cuda.memory_allocated(DEVICE)
    block = torch.ones(256 * MEGABYTE // 4, device=DEVICE)
    del block
    read = memory.read(host_bytes=7)
    assert read.allocated_bytes is not None
    assert read.allocated_bytes - before >= 256 * MEGABYTE
    assert read.reserved_bytes is not None
    assert read.reserved_bytes >= read.allocated_bytes
    assert read.process_bytes is None or read.process_bytes >= read.reserved_bytes
    assert read.host_bytes == 7


def test_the_driver_knows_the_device_by_its_uuid():
    uuid = str(torch.cuda.get_device_properties(DEVICE).uuid)
    handle = nvml_handle(uuid)
    assert handle is not None
    assert nvml_handle("00000000-0000-0000-0000-000000000000") is None
    assert process_bytes(handle, pid=-1) is None
    known = process_bytes(handle, os.getpid())
    assert known is None or known > 0


def test_energy_of_work_is_positive_or_unmeasured():
    energy = DeviceEnergy(DEVICE)
    energy.start()
    matrix = torch.randn(4096, 4096, device=DEVICE)
    for _ in range(200):
        matrix = torch.nn.functional.normalize(matrix @ matrix)
    torch.cuda.synchronize(DEVICE)
    joules = energy.joules()
    assert joules is None or 0 < joules < 100_000


def test_energy_before_a_start_is_unmeasured():
    assert DeviceEnergy(DEVICE).joules() is None


def test_fp32_means_that_tf32_is_off_and_the_flags_come_back():
    matrix = torch.randn(512, 512, device=DEVICE)
    exact = (matrix.double() @ matrix.double()).float()
    flags = (torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision)
    errors = {}
    for precision in ("fp32", "tf32"):
        with autocast(NumericsPlan(precision=precision), DEVICE):
            errors[precision] = float(((matrix @ matrix) - exact).norm() / exact.norm())
    assert errors["fp32"] < 1e-5
    if torch.cuda.get_device_capability(DEVICE)[0] >= 8:
        assert errors["tf32"] > 10 * errors["fp32"]
    assert flags == (
        torch.backends.cuda.matmul.fp32_precision,
        torch.backends.cudnn.conv.fp32_precision,
    )


def test_plans_are_measured_for_both_passes(tmp_path):
    runtime = GpuRuntime(ArtifactCache(tmp_path))
    inputs, labels = make_batch()
    random_state = torch.cuda.get_rng_state(DEVICE)
    forward = plan_forward(make_net(), inputs, runtime, key={})
    train = plan_train(make_net(), inputs, labels, runtime, key={})
    assert forward.source == train.source == "measured"
    assert len(forward.seconds) + len(forward.rejected) >= 4
    assert torch.equal(random_state, torch.cuda.get_rng_state(DEVICE))


def test_fp16_can_be_pinned_and_strict_fp32_is_contiguous(tmp_path):
    cache = ArtifactCache(tmp_path)
    inputs, _ = make_batch()
    half = plan_forward(make_net(), inputs, GpuRuntime(cache, Numerics.FP16), key={})
    strict = plan_forward(make_net(), inputs, GpuRuntime(cache, Numerics.FP32), key={})
    assert (half.precision, half.memory_format) == ("fp16", "channels_last")
    assert (strict.precision, strict.memory_format) == ("fp32", "contiguous")


def test_profiles_have_device_memory(tmp_path):
    net, (inputs, labels) = make_net(), make_batch()
    settings = ProfileSettings(
        device=DEVICE, budget_seconds=1.0, host=HostMemory(), lock_root=tmp_path
    )
    infer = profile_inference(
        net, inputs, plan=NumericsPlan(), end_to_end=lambda: None, settings=settings
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)

    def step(inputs: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), labels).backward()
        optimizer.step()

    train = profile_training(step, inputs, labels, settings=settings)
    activations = 64 * 64 * 64 * 64 * 4
    assert infer.memory.allocated_bytes is not None
    assert train.memory.allocated_bytes is not None
    assert infer.memory.allocated_bytes > activations
    assert train.memory.allocated_bytes > infer.memory.allocated_bytes
    assert infer.examples_per_second > train.examples_per_second


def test_repeats_wait_for_the_device():
    clock = FakeClock()

    def step(inputs: Tensor, labels: Tensor) -> None:
        assert torch.cuda.current_stream(DEVICE).query()
        torch.cuda._sleep(10_000_000)
        clock.advance(1.0)

    profile_training(
        step, *make_batch(), settings=ProfileSettings(DEVICE, budget_seconds=2.0, clock=clock)
    )


def test_flops_are_those_of_the_cpu():
    inputs, _ = make_batch()
    net = make_net()
    on_device = count_flops(net, inputs).per_example
    assert on_device == count_flops(net.cpu(), inputs.cpu()).per_example


def test_the_device_has_a_class_and_a_driver(tmp_path):
    assert list_devices()[0] == "cuda:0"
    assert device_class("cuda:0") == f"cuda:{torch.cuda.get_device_name(0)}"
    here = collect_environment("cuda:0", tmp_path)
    assert here.driver
    assert here.cuda == torch.version.cuda
