import pytest
import torch
from torch import Tensor, nn

from bench.interfaces import Adapted, Stage
from bench.record import NumericsPlan
from bench.spec import Numerics
from bench.strategies.augment import make_augmentation, make_mixing
from bench.strategies.feed import InputFeed
from bench.strategies.freeze import Trained
from bench.strategies.full import Full, FullSpec
from bench.strategies.head import Classifier, make_head
from bench.strategies.loop import TrainStep
from bench.strategies.partial import Partial, PartialSpec
from tests.training import TestRuntime, make_backbone, make_split, make_task, small_backbone

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def make_gpu_task(numerics: Numerics = Numerics.FP32, **options):  # type: ignore[no-untyped-def]
    device = torch.device("cuda", 0)
    backbone = small_backbone(dropout=0.1)
    backbone.module.to(device)
    runtime = TestRuntime(device=device, numerics=numerics)
    return make_task(backbone, runtime=runtime, num_train=96, **options)


@pytest.mark.parametrize("numerics", list(Numerics))
def test_full_learns_on_a_gpu_under_every_policy(numerics: Numerics) -> None:
    spec = FullSpec(epochs=8, batch_size=16, learning_rate=0.02, augmentation="none")
    adapted = Full().adapt(make_gpu_task(numerics), spec)
    test = make_split("test", 60, 9)
    logits = adapted.predict(test)
    assert logits.device.type == "cpu" and logits.dtype == torch.float32
    assert (logits.argmax(1).numpy() == test.labels).mean() > 0.9


@pytest.mark.parametrize("augmentation", ["flip_crop", "strong"])
def test_partial_trains_with_augmentation_on_a_gpu(augmentation: str) -> None:
    spec = PartialSpec(epochs=1, batch_size=16, augmentation=augmentation)  # type: ignore[arg-type]
    adapted = Partial().adapt(make_gpu_task(), spec)
    assert adapted.predict(make_split("test", 8, 9)).isfinite().all()


@pytest.mark.parametrize("precision", [Numerics.FP32, Numerics.BF16, Numerics.FP16])
def test_a_step_does_not_wait_for_the_device(precision: Numerics) -> None:
    adapted = Full().adapt(make_gpu_task(precision), FullSpec(epochs=1, batch_size=16))
    assert adapted.training_step is not None
    step = adapted.training_step()
    inputs = torch.randn(16, 3, 16, 16, device="cuda")
    labels = torch.arange(16, device="cuda") % 3
    step(inputs, labels)
    augment = make_augmentation("strong", 0, inputs.device)
    assert augment is not None
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        step(inputs, labels)
        augment(torch.rand(16, 16, 16, 3, device="cuda"))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("fields", [{"mixup": 1.0}, {"cutmix": 1.0}])
def test_batches_mixtures_and_accumulated_steps_do_not_wait_for_the_device(
    fields: dict[str, float],
) -> None:
    device, backbone = torch.device("cuda", 0), small_backbone()
    trained = Trained(Classifier(backbone.module, make_head(16, 3)).to(device))
    trained.require_gradients()
    setting = FullSpec(**fields)  # type: ignore[arg-type]
    step = TrainStep(trained, setting, NumericsPlan(), device, micro_batch=8)
    mix = make_mixing(setting, 3, 0, device)
    assert mix is not None
    feed = InputFeed(make_split("train", 48, 1), backbone.preprocessing, device, resident=True)
    assert feed.is_resident
    batches = feed.batches(torch.randperm(48), (16, 16, 16))
    mixed = mix(next(batches))
    step(mixed.inputs, mixed.labels)
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        for batch in batches:
            mixed = mix(batch)
            step(mixed.inputs, mixed.labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_gpu_that_runs_out_of_memory_accumulates_to_the_same_curve() -> None:
    def train(fraction: float) -> Adapted:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(fraction)
        try:
            backbone = make_backbone(WideNet(), (Stage("wide", ("wide",)),), 64)
            backbone.module.to("cuda")
            task = make_task(backbone, num_train=64, runtime=TestRuntime(torch.device("cuda", 0)))
            return Full().adapt(task, FullSpec(epochs=2, batch_size=64, learning_rate=0.02))
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)

    enough = train(1.0)
    # A batch has maps of 600 MB, several of them at a time.
    total = torch.cuda.get_device_properties(0).total_memory
    scarce = train((1 << 30) / total)
    assert scarce.effective.effective_batch_size == 64
    assert scarce.effective.batch_size is not None and scarce.effective.batch_size < 64
    for one, other in zip(enough.curve, scarce.curve, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, abs=1e-4)


class WideNet(nn.Module):
    """Large maps of few weights, without batch norm."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.wide = nn.Conv2d(3, 64, 3, 1, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = nn.functional.interpolate(inputs, size=(192, 192))
        return self.wide(maps).relu().mean(dim=(2, 3))


def test_global_random_state_of_the_gpu_is_left_as_it_was() -> None:
    task = make_gpu_task()
    torch.cuda.manual_seed(7)
    before = torch.cuda.get_rng_state()
    Full().adapt(task, FullSpec(epochs=1, batch_size=16, augmentation="strong"))
    assert torch.equal(torch.cuda.get_rng_state(), before)
