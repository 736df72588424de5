import pytest
import torch

from bench.spec import Numerics
from bench.strategies.augment import make_augmentation
from bench.strategies.full import Full, FullSpec
from bench.strategies.partial import Partial, PartialSpec
from tests.training import TestRuntime, make_split, make_task, small_backbone

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


def test_global_random_state_of_the_gpu_is_left_as_it_was() -> None:
    task = make_gpu_task()
    torch.cuda.manual_seed(7)
    before = torch.cuda.get_rng_state()
    Full().adapt(task, FullSpec(epochs=1, batch_size=16, augmentation="strong"))
    assert torch.equal(torch.cuda.get_rng_state(), before)
