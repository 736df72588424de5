import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from bench.errors import DivergedError, StrategyError
from bench.interfaces import Task
from bench.record import EpochPoint, NumericsPlan
from bench.strategies import feed as feeds
from bench.strategies.evaluation import predict_logits, score_logits
from bench.strategies.feed import Batch, InputFeed, batch_sizes
from bench.strategies.freeze import Trained, restore_tensors
from bench.strategies.full import Full, FullSpec
from bench.strategies.head import Classifier, make_head
from bench.strategies.inputs import normalise
from bench.strategies.loop import Training, derive_seed, is_better, train_setting
from bench.strategies.schedule import fixed, make_optimizer, rate_factor
from bench.strategies.selection import is_at_grid_edge
from tests.training import MemoryPool, TestRuntime, make_split, make_task, small_backbone

CPU = torch.device("cpu")
FP32 = NumericsPlan(memory_format="contiguous")


def make_training(num_train: int = 50, seed: int = 3, num_val: int | None = 24) -> Training:
    backbone = small_backbone()
    trained = Trained(Classifier(backbone.module, make_head(16, 3)))
    trained.require_gradients()

    def hold(name: str, count: int, draw: int) -> InputFeed:
        return InputFeed(make_split(name, count, draw), backbone.preprocessing, CPU, resident=True)

    return Training(
        trained=trained,
        train=hold("train", num_train, 1),
        val=None if num_val is None else hold("val", num_val, 2),
        train_plan=FP32,
        val_plan=FP32,
        device=CPU,
        seed=seed,
    )


def plain_losses(setting: FullSpec, seed: int, num_train: int) -> list[float]:
    """The loop as one would write it for one model, on the same order."""
    backbone, split = small_backbone(), make_split("train", num_train, 1)
    model = torch.nn.Sequential(backbone.module, torch.nn.Linear(16, 3))
    torch.nn.init.zeros_(model[1].weight)
    torch.nn.init.zeros_(model[1].bias)
    images = normalise(torch.from_numpy(split.pool.images), backbone.preprocessing).contiguous()
    labels = torch.from_numpy(split.labels)
    vectors = [p for p in model.parameters() if p.ndim == 1]
    others = [p for p in model.parameters() if p.ndim > 1]
    groups = [{"params": others, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.01, fused=False, foreach=False)
    generator = torch.Generator().manual_seed(derive_seed(seed, "order"))
    steps, per_epoch, losses = 0, math.ceil(num_train / 16), []
    for _ in range(setting.epochs):
        total = 0.0
        for batch in torch.randperm(num_train, generator=generator).split(16):
            warm, whole = 2, setting.epochs * per_epoch
            cosine = 0.5 * (1 + math.cos(math.pi * (steps - warm) / (whole - warm)))
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * ((steps + 1) / warm if steps < warm else cosine)
            loss = F.cross_entropy(model(images[batch]), labels[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total, steps = total + float(loss.detach()) * len(batch), steps + 1
        losses.append(total / num_train)
    return losses


def test_the_loss_curve_is_that_of_a_plain_loop() -> None:
    setting = FullSpec(epochs=4, batch_size=16, learning_rate=0.01, label_smoothing=0.1)
    fit = train_setting(make_training(), setting)
    expected = plain_losses(setting, seed=3, num_train=50)
    assert [point.train_loss for point in fit.curve] == pytest.approx(expected, abs=1e-5)
    assert expected[-1] < 0.9 * expected[0]


def test_the_best_epoch_is_kept_and_scores_as_the_curve_says() -> None:
    training = make_training()
    fit = train_setting(training, FullSpec(epochs=5, batch_size=16, learning_rate=0.02))
    assert fit.best.val_accuracy == max(point.val_accuracy or 0 for point in fit.curve)
    restore_tensors(training.trained, fit.state)
    assert training.val is not None
    logits = predict_logits(training.trained.classifier, training.val, FP32, CPU)
    accuracy, loss = score_logits(logits, training.val.labels)
    assert (accuracy, loss) == (fit.best.val_accuracy, pytest.approx(fit.best.val_loss, rel=1e-6))


def test_a_tie_in_accuracy_goes_to_the_lower_loss_then_to_the_earlier_epoch() -> None:
    def point(accuracy: float | None, loss: float | None) -> EpochPoint:
        return EpochPoint(
            epoch=1, train_loss=1, learning_rate=1, val_accuracy=accuracy, val_loss=loss, seconds=1
        )

    assert is_better(point(0.9, 2.0), point(0.8, 0.1))
    assert is_better(point(0.9, 0.1), point(0.9, 0.2))
    assert not is_better(point(0.9, 0.2), point(0.9, 0.2))
    assert is_better(point(None, None), point(None, None))


def test_without_val_every_epoch_is_trained_and_the_last_kept() -> None:
    training = make_training(num_val=None)
    fit = train_setting(training, FullSpec(epochs=3, batch_size=16))
    assert fit.best_epoch == 3
    assert [point.val_accuracy for point in fit.curve] == [None] * 3
    for name, value in training.trained.tensors().items():
        assert torch.equal(value, fit.state[name])


@pytest.mark.parametrize("num_val", [24, None])
def test_a_loss_that_is_not_finite_ends_the_setting(num_val: int | None) -> None:
    setting = FullSpec(epochs=3, batch_size=16, learning_rate=1e30, clip_norm=None, optimizer="sgd")
    fit = train_setting(make_training(num_val=num_val), setting)
    assert fit.diverged is not None and "not finite in epoch 1" in fit.diverged
    assert not fit.state


class WaitingCalls(TorchDispatchMode):
    """Counts what would wait for a GPU: values asked for, and constants copied to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        waiting = (torch.ops.aten._local_scalar_dense, torch.ops.aten.lift_fresh)
        self.count += func.overloadpacket in waiting
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"optimizer": "sgd", "clip_norm": None},
        {"augmentation": "strong"},
        {"mixup": 0.2, "cutmix": 1.0},
    ],
)
def test_more_steps_do_not_wait_more_often(fields: dict[str, object]) -> None:
    def waits(num_train: int) -> int:
        training = make_training(num_train=num_train)
        setting = FullSpec(epochs=2, batch_size=8, **fields)  # type: ignore[arg-type]
        train_setting(training, setting)
        with WaitingCalls() as calls:
            train_setting(training, setting)
        return calls.count

    assert 0 < waits(80) == waits(160)


def test_divergence_is_noticed_before_a_long_epoch_ends() -> None:
    training = make_training(num_train=400)
    with torch.no_grad():
        training.trained.classifier.head.bias.fill_(math.nan)
    steps = 0
    original = training.train.batches

    def counted(*arguments):  # type: ignore[no-untyped-def]
        nonlocal steps
        for batch in original(*arguments):
            steps += 1
            yield batch

    training.train.batches = counted  # type: ignore[method-assign]
    assert train_setting(training, FullSpec(epochs=1, batch_size=2)).diverged
    assert steps == 50


def test_global_random_state_is_left_as_it_was() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    Full().adapt(
        make_task(small_backbone(dropout=0.5)),
        FullSpec(epochs=1, batch_size=16, augmentation="strong"),
    )
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("augmentation", ["none", "flip_crop", "strong"])
def test_the_same_cell_twice_predicts_the_same_bits(augmentation: str) -> None:
    spec = FullSpec(epochs=2, batch_size=16, augmentation=augmentation)  # type: ignore[arg-type]
    logits = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        task = make_task(small_backbone(dropout=0.5))
        logits.append(Full().adapt(task, spec).predict(make_split("test", 20, 9)))
    assert torch.equal(*logits)


def test_another_seed_gives_another_order() -> None:
    spec = FullSpec(epochs=1, batch_size=16)
    first, second = (
        Full().adapt(make_task(seed=seed), spec).predict(make_split("test", 20, 9))
        for seed in (0, 1)
    )
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("num_examples", "batch_size", "expected"),
    [
        (50, 16, (16, 16, 16, 2)),
        (49, 16, (16, 16, 17)),
        (48, 16, (16, 16, 16)),
        (5, 16, (5,)),
        (1, 16, (1,)),
        (3, 1, (1, 1, 1)),
    ],
)
def test_no_example_is_dropped_and_a_last_one_joins_the_batch_before(
    num_examples: int, batch_size: int, expected: tuple[int, ...]
) -> None:
    assert batch_sizes(num_examples, batch_size) == expected


def test_a_last_batch_of_one_does_not_break_batch_norm() -> None:
    task = make_task(num_train=17)
    adapted = Full().adapt(task, FullSpec(epochs=1, batch_size=16))
    assert adapted.predict(make_split("test", 5, 9)).isfinite().all()


def test_streamed_and_resident_images_train_to_the_same_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec, test = FullSpec(epochs=2, batch_size=16, augmentation="flip_crop"), make_split("t", 9, 9)
    resident_task = make_task()
    resident = Full().adapt(resident_task, spec).predict(test)
    monkeypatch.setattr(feeds, "HOST_BUDGET_BYTES", 10)
    streamed_task = make_task()
    streamed = Full().adapt(streamed_task, spec).predict(test)
    assert torch.equal(resident, streamed)
    pools = [task.train.pool for task in (resident_task, streamed_task)]
    assert all(isinstance(pool, MemoryPool) for pool in pools)
    assert pools[0].num_gathers < pools[1].num_gathers  # type: ignore[attr-defined]


class SlowPool(MemoryPool):
    def gather(self, rows: np.ndarray) -> np.ndarray:
        time.sleep(0.05)
        return super().gather(rows)


def wait_fractions(task: Task, spec: FullSpec) -> list[float]:
    curve = Full().adapt(task, spec).curve
    return [point.data_wait_fraction for point in curve if point.data_wait_fraction is not None]


def test_the_share_of_time_spent_waiting_for_a_slow_pool_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task, spec = make_task(), FullSpec(epochs=2, batch_size=16)
    pool = task.train.pool
    assert isinstance(pool, MemoryPool)
    slow = replace(task, train=replace(task.train, pool=SlowPool(pool.images)))
    resident = wait_fractions(slow, spec)
    assert len(resident) == 2 and all(0 < share < 0.1 for share in resident)
    monkeypatch.setattr(feeds, "HOST_BUDGET_BYTES", 10)
    streamed = wait_fractions(slow, spec)
    assert len(streamed) == 2 and all(0.5 < share <= 1 for share in streamed)


def test_a_feed_that_does_not_measure_its_waits_leaves_the_share_unknown() -> None:
    training = make_training()
    original = training.train.batches

    def unmeasured(*arguments):  # type: ignore[no-untyped-def]
        for batch in original(*arguments):
            yield Batch(batch.inputs, batch.labels)

    training.train.batches = unmeasured  # type: ignore[method-assign]
    fit = train_setting(training, FullSpec(epochs=1, batch_size=16))
    assert fit.curve[0].data_wait_fraction is None


def test_an_error_of_the_reading_thread_reaches_the_loop() -> None:
    class BrokenPool(MemoryPool):
        def gather(self, rows: np.ndarray) -> np.ndarray:
            raise OSError("disk gone")

    split = make_split("train", 8, 1)
    object.__setattr__(split, "pool", BrokenPool(split.pool.images))  # type: ignore[attr-defined]
    feed = InputFeed(split, small_backbone().preprocessing, CPU, resident=False)
    with pytest.raises(OSError, match="disk gone"):
        list(feed.batches(torch.arange(8), (4, 4)))


def test_the_rate_warms_up_linearly_then_falls_on_a_cosine() -> None:
    setting = FullSpec(warmup_fraction=0.2)
    rates = [rate_factor(step, 10, setting) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[6] == pytest.approx(0.5)
    assert 0 < rates[9] < rates[8] < 0.2


def test_a_constant_schedule_stays_at_the_peak() -> None:
    setting = FullSpec(warmup_fraction=0.0, schedule="constant")
    assert {rate_factor(step, 10, setting) for step in range(10)} == {1.0}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_vectors_are_not_decayed(optimizer: str) -> None:
    parameters = [torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))]
    setting = FullSpec(optimizer=optimizer, weight_decay=0.5, learning_rate=0.1)  # type: ignore[arg-type]
    built = make_optimizer(parameters, setting)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    built.step()
    assert torch.allclose(parameters[0], torch.full((2, 2), 0.95))
    assert torch.equal(parameters[1], torch.ones(2))


def test_a_grid_where_one_value_is_due_is_a_bug() -> None:
    with pytest.raises(TypeError, match=r"a grid of values where one is due: \(0.1, 0.2\)"):
        fixed((0.1, 0.2))


def test_every_grid_point_starts_from_the_same_weights() -> None:
    single = Full().adapt(make_task(), FullSpec(epochs=2, batch_size=16, learning_rate=0.02))
    both = Full().adapt(make_task(), FullSpec(epochs=2, batch_size=16, learning_rate=(1e-7, 0.02)))
    assert both.selection is not None and both.selection.chosen == 1
    test = make_split("test", 20, 9)
    assert torch.equal(single.predict(test), both.predict(test))
    assert [point.train_loss for point in single.curve] == [p.train_loss for p in both.curve]


def test_the_best_point_is_in_the_model_though_a_worse_one_came_last() -> None:
    single = Full().adapt(make_task(), FullSpec(epochs=2, batch_size=16, learning_rate=0.02))
    both = Full().adapt(make_task(), FullSpec(epochs=2, batch_size=16, learning_rate=(0.02, 1e-7)))
    assert both.selection is not None and both.selection.chosen == 0
    test = make_split("test", 20, 9)
    assert torch.equal(single.predict(test), both.predict(test))


def test_a_diverged_point_drops_out_with_a_note() -> None:
    spec = FullSpec(
        epochs=1, batch_size=16, learning_rate=(1e30, 0.02), optimizer="sgd", clip_norm=None
    )
    adapted = Full().adapt(make_task(), spec)
    assert adapted.selection is not None
    diverged, good = adapted.selection.points
    assert adapted.selection.chosen == 1 and adapted.selection.at_grid_edge is None
    assert (diverged.val_accuracy, diverged.val_loss, diverged.best_epoch) == (None, None, None)
    assert diverged.note == "diverged: the loss is not finite in epoch 1"
    assert diverged.setting == {"learning_rate": 1e30} and good.note is None
    assert "1 of 2 settings diverged" in adapted.effective.notes
    assert adapted.predict(make_split("test", 5, 9)).isfinite().all()


def test_a_grid_that_diverges_everywhere_is_an_error_with_every_reason() -> None:
    spec = FullSpec(
        epochs=1, batch_size=16, learning_rate=(1e30, 1e31), optimizer="sgd", clip_norm=None
    )
    with pytest.raises(DivergedError) as caught:
        Full().adapt(make_task(), spec)
    assert str(caught.value) == (
        "full: every setting diverged (learning_rate 1e+30: diverged: the loss is not finite in "
        "epoch 1; learning_rate 1e+31: diverged: the loss is not finite in epoch 1). Lower "
        "learning_rate, set clip_norm, or pin numerics: fp32."
    )


def test_a_grid_needs_a_val_split() -> None:
    with pytest.raises(StrategyError, match="full: a grid of 2 settings and no val split"):
        Full().adapt(make_task(num_val=None), FullSpec(learning_rate=(0.1, 0.2)))


@pytest.mark.parametrize(
    ("rates", "chosen", "expected"),
    [
        (0.1, 0.1, None),
        ((0.1, 0.2), 0.1, None),
        ((0.3, 0.1, 0.2), 0.2, False),
        ((0.3, 0.1, 0.2), 0.3, True),
        ((0.3, 0.1, 0.2), 0.1, True),
    ],
)
def test_an_edge_is_told_from_three_values_on(
    rates: float | tuple[float, ...], chosen: float, expected: bool | None
) -> None:
    spec = FullSpec(learning_rate=rates)
    assert is_at_grid_edge(spec, spec.model_copy(update={"learning_rate": chosen})) is expected


def test_every_epoch_of_every_point_is_told() -> None:
    runtime = TestRuntime()
    spec = FullSpec(epochs=2, batch_size=16, learning_rate=(0.01, 0.02))
    Full().adapt(make_task(runtime=runtime), spec)
    told = [(p.epoch, p.num_epochs, p.grid_point, p.num_grid_points) for p in runtime.emitted]
    assert told == [(1, 2, 1, 2), (2, 2, 1, 2), (1, 2, 2, 2), (2, 2, 2, 2)]
    assert all(p.phase == "train" and p.val_accuracy is not None for p in runtime.emitted)
