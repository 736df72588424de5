"""The one training loop: one fixed setting, from the weights at hand to its best epoch.

It knows no grid, no strategy, no dataset and no backbone: only a model, its trained part, feeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.digests import digest_value
from bench.numerics import autocast, make_pass, prepare_inputs
from bench.record import EpochPoint, NumericsPlan
from bench.spec import TrainingSpec
from bench.strategies.augment import Augmentation, Mixing, make_augmentation, make_mixing
from bench.strategies.buckets import training_order
from bench.strategies.evaluation import eval_batch_size, predict_logits, score_logits
from bench.strategies.feed import Feed, batch_sizes
from bench.strategies.freeze import Trained, copy_tensors, restore_tensors
from bench.strategies.microbatch import EvalBatch, smallest_pass, with_fewer
from bench.strategies.schedule import fixed, make_optimizer, rate_factor, set_rate

CHECK_STEPS = 50


@dataclass(frozen=True)
class Training:
    """What every setting of a grid trains with.

    Attributes:
        val: None when there is nothing to choose with: the last epoch is kept.
        train_plan: Numerics of the training step.
        val_plan: Numerics of the forward passes over val, in the memory format of `train_plan`.
        seed: Draws order, augmentation and dropout, the same for every setting.
        micro_batch: Examples per forward and backward pass at most; None is the whole batch.
        report: Called after each epoch with its number and val accuracy.
        notes: Why a path was taken, for the record.
        last_epoch: Where training ends before the schedule does; None is the setting's epochs.
    """

    trained: Trained
    train: Feed
    val: Feed | None
    train_plan: NumericsPlan
    val_plan: NumericsPlan
    device: torch.device
    seed: int
    micro_batch: int | None = None
    report: Callable[[int, float | None], None] = lambda epoch, accuracy: None
    notes: tuple[str, ...] = ()
    last_epoch: int | None = None


@dataclass(frozen=True)
class Fit:
    """What became of one setting.

    Attributes:
        curve: Every epoch that ended, first to last.
        best_epoch: The one kept, from 1: highest val accuracy, then lowest val loss, then earliest.
        state: The trained tensors after that epoch, by name; empty when it diverged.
        diverged: Why the setting is out, or None.
        micro_batch: Examples per pass where memory did not suffice for a whole batch; else None.
    """

    curve: tuple[EpochPoint, ...]
    best_epoch: int = 0
    state: Mapping[str, Tensor] = field(default_factory=dict)
    diverged: str | None = None
    micro_batch: int | None = None

    @property
    def best(self) -> EpochPoint:
        """The epoch that was kept."""
        return self.curve[self.best_epoch - 1]


class TrainStep:
    """The plain training step: forward, loss, backward, update.

    It waits for nothing on the device. The loss scale of fp16 is kept here.

    Args:
        trained: The model; its modes are the caller's.
        setting: One point of the grid.
        plan: Numerics of the step, already applied to the model.
        device: Where the model is.
        micro_batch: Examples per forward and backward pass at most; a larger batch is split and
            its gradients are accumulated to one update. None takes every batch whole.
    """

    def __init__(
        self,
        trained: Trained,
        setting: TrainingSpec,
        plan: NumericsPlan,
        device: torch.device,
        micro_batch: int | None = None,
    ) -> None:
        self._micro_batch = micro_batch
        self._forward = make_pass(trained.classifier, plan)
        self._setting = setting
        self._plan = plan
        self._device = device
        # Gradients follow the dtypes of the forward pass; autocast would lower the head's again.
        # What has to hold is that TF32 is as the plan says.
        tf32 = plan.precision == "tf32"
        self._backward_plan = NumericsPlan(precision="tf32" if tf32 else "fp32")
        self._parameters = trained.parameters()
        self._optimizer = make_optimizer(self._parameters, setting, trained.rate_factors())
        self._add_own_gradients = trained.rule.add_gradients
        weights = trained.rule.class_weights
        self._class_weights = None if weights is None else torch.tensor(weights, device=device)
        scaled = plan.precision == "fp16" and device.type == "cuda"
        self._scaler = torch.amp.GradScaler(device.type, enabled=scaled)

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the next update."""
        set_rate(self._optimizer, rate)

    def __call__(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of the batch, on the device, without waiting for it.

        Args:
            inputs: What the model takes, shape (B, …).
            labels: Class indices, shape (B,), or probabilities, shape (B, K).
        """
        self._optimizer.zero_grad(set_to_none=True)
        if self._micro_batch is None or len(labels) <= self._micro_batch:
            loss = self._add_gradients(inputs, labels)
        else:
            loss = self._accumulate(inputs, labels, self._micro_batch)
        if self._setting.clip_norm is not None or self._add_own_gradients is not None:
            self._scaler.unscale_(self._optimizer)
        if self._add_own_gradients is not None:
            self._add_own_gradients()
        if self._setting.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, self._setting.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return loss

    def _accumulate(self, inputs: Tensor, labels: Tensor, micro_batch: int) -> Tensor:
        """Return the mean loss of a batch that goes through the model in parts."""
        sizes = list(batch_sizes(len(labels), micro_batch))
        parts = zip(torch.split(inputs, sizes), torch.split(labels, sizes), strict=True)
        losses = [self._add_gradients(*part, len(part[1]) / len(labels)) for part in parts]
        return torch.stack(losses).sum()

    def _add_gradients(self, inputs: Tensor, labels: Tensor, weight: float = 1.0) -> Tensor:
        """Add the gradients of the weighted mean loss to what is there, and return that loss."""
        with autocast(self._plan, self._device):
            logits = self._forward(prepare_inputs(inputs, self._plan))
        loss = self._loss(logits.float(), labels)
        if weight != 1.0:
            loss = loss * weight
        with autocast(self._backward_plan, self._device):
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean over examples of their losses, each times the weight of its class.

        PyTorch's own weighted mean divides by the weights of the batch at hand, so that it depends
        on who else is in the batch, and accumulated parts do not add up to the whole.
        """
        smoothing, weights = self._setting.label_smoothing, self._class_weights
        if weights is None:
            return F.cross_entropy(logits, labels, label_smoothing=smoothing)
        total = F.cross_entropy(logits, labels, weights, reduction="sum", label_smoothing=smoothing)
        return total / len(labels)


def train_setting(training: Training, setting: TrainingSpec) -> Fit:
    """Train one setting from the model's present weights and return its best epoch.

    Where memory runs out, the micro-batch is halved and the setting begins again from the weights,
    optimiser and random state it began with, so that the result does not depend on where it ran
    out. The model is left as the last epoch left it; the best tensors are in the result. Global
    random state is as before.

    Args:
        training: Model, feeds, numerics, seed.
        setting: Every field fixed.
    """
    trained = training.trained
    trained.train()
    batch = max(batch_sizes(len(training.train), fixed(setting.batch_size)))
    begin = min(batch, training.micro_batch or batch)
    # On the host: where memory is scarce, that of the device is not spent on a spare copy.
    start = {name: value.to("cpu", copy=True) for name, value in trained.tensors().items()}

    def attempt(size: int) -> Fit:
        if size < begin:
            restore_tensors(trained, start)
        fit = _train(replace(training, micro_batch=size), setting)
        return fit if size >= batch else replace(fit, micro_batch=size)

    return with_fewer(attempt, begin, training.device, floor=smallest_pass(trained.classifier))


def _train(training: Training, setting: TrainingSpec) -> Fit:
    run = _Run(training, setting)
    with seeded(training.seed, training.device):
        for epoch in range(1, (training.last_epoch or setting.epochs) + 1):
            if reason := run.train_epoch(epoch):
                return Fit(curve=tuple(run.curve), diverged=reason)
    return Fit(curve=tuple(run.curve), best_epoch=run.best_epoch, state=run.state)


@dataclass(frozen=True)
class _Pass:
    """What one pass over train gave: its mean loss, and the share of its time spent waiting."""

    loss: float
    data_wait_fraction: float | None


class _Run:
    """State of one setting between epochs."""

    def __init__(self, training: Training, setting: TrainingSpec) -> None:
        self._training = training
        self._setting = setting
        self._sizes = batch_sizes(len(training.train), fixed(setting.batch_size))
        # An attempt before may have ended in an epoch in which less trains.
        training.trained.require_gradients()
        self._step = TrainStep(
            training.trained, setting, training.train_plan, training.device, training.micro_batch
        )
        self._order = torch.Generator().manual_seed(derive_seed(training.seed, "order"))
        self._augment: Augmentation | None = make_augmentation(
            setting.augmentation, derive_seed(training.seed, "augment"), training.device
        )
        self._mix: Mixing | None = make_mixing(
            setting,
            training.trained.classifier.head.out_features,
            derive_seed(training.seed, "mix"),
            training.device,
        )
        self._eval_batch = EvalBatch(
            eval_batch_size(training.device, training.val_plan), training.device
        )
        self.curve: list[EpochPoint] = []
        self.best_epoch = 0
        self.state: Mapping[str, Tensor] = {}

    def train_epoch(self, epoch: int) -> str | None:
        """Train and score one epoch; return why the setting diverged, or None."""
        started = perf_counter()
        passed = self._pass_over_train(epoch)
        scores = self._score_val()
        if passed is None or not self._is_finite(scores):
            return f"the loss is not finite in epoch {epoch}"
        accuracy, val_loss = scores if scores is not None else (None, None)
        point = EpochPoint(
            epoch=epoch,
            train_loss=passed.loss,
            learning_rate=self._rate(epoch * len(self._sizes) - 1),
            val_accuracy=accuracy,
            val_loss=val_loss,
            seconds=perf_counter() - started,
            data_wait_fraction=passed.data_wait_fraction,
        )
        self.curve.append(point)
        self._keep_best(point)
        self._training.report(epoch, accuracy)
        return None

    def _rate(self, step: int) -> float:
        num_steps = self._setting.epochs * len(self._sizes)
        return fixed(self._setting.learning_rate) * rate_factor(step, num_steps, self._setting)

    def _pass_over_train(self, epoch: int) -> _Pass | None:
        """Return the mean loss over the epoch's examples, or None once it is not finite."""
        training, first = self._training, (epoch - 1) * len(self._sizes)
        self._open(epoch)
        order = torch.randperm(len(training.train), generator=self._order)
        order = training_order(order, self._sizes, training.train.lengths, self._order)
        total = torch.zeros((), device=training.device)
        waits: list[float | None] = []
        began = perf_counter()
        for number, batch in enumerate(training.train.batches(order, self._sizes, self._augment)):
            waits.append(batch.waited_seconds)
            shown = batch if self._mix is None else self._mix(batch)
            self._step.set_rate(self._rate(first + number))
            total += self._step(shown.inputs, shown.labels) * len(batch.labels)
            if (number + 1) % CHECK_STEPS == 0 and not bool(total.isfinite()):
                return None
        mean = float(total) / len(order)
        share = _share(waits, perf_counter() - began)
        return _Pass(mean, share) if math.isfinite(mean) else None

    def _open(self, epoch: int) -> None:
        """Put the part that trains in an epoch in train mode, with gradients for it alone."""
        trained = self._training.trained.in_epoch(epoch)
        if trained is not self._training.trained:
            trained.require_gradients()
        trained.train()

    def _score_val(self) -> tuple[float, float] | None:
        training = self._training
        if training.val is None:
            return None
        logits = predict_logits(
            training.trained.classifier,
            training.val,
            training.val_plan,
            training.device,
            self._eval_batch,
        )
        return score_logits(logits, training.val.labels)

    def _is_finite(self, scores: tuple[float, float] | None) -> bool:
        """Return whether the epoch left usable weights; without val they are looked at directly."""
        if scores is not None:
            return math.isfinite(scores[1])
        finite = [value.isfinite().all() for value in self._training.trained.parameters()]
        return bool(torch.stack(finite).all())

    def _keep_best(self, point: EpochPoint) -> None:
        if self.best_epoch and not is_better(point, self.curve[self.best_epoch - 1]):
            return
        self.best_epoch = point.epoch
        last = self._training.last_epoch or self._setting.epochs
        if point.val_accuracy is not None or point.epoch == last:
            self.state = copy_tensors(self._training.trained)


def _share(waits: Sequence[float | None], seconds: float) -> float | None:
    """Return the part of a time that was waited; None where a feed did not measure."""
    known = [wait for wait in waits if wait is not None]
    return sum(known) / seconds if len(known) == len(waits) else None


def is_better(point: EpochPoint, best: EpochPoint) -> bool:
    """Return whether an epoch beats the best so far: higher val accuracy, then lower val loss.

    Without val any later epoch does.
    """
    if point.val_accuracy is None or best.val_accuracy is None:
        return True
    if point.val_accuracy != best.val_accuracy or point.val_loss is None or best.val_loss is None:
        return point.val_accuracy > best.val_accuracy
    return point.val_loss < best.val_loss


def derive_seed(seed: int, purpose: str) -> int:
    """Return a seed of its own for one purpose, so that no two draws share a stream."""
    return int(digest_value([seed, purpose])[:15], 16)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed what a model draws itself (dropout, dropped paths) and put global state back after."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(derive_seed(seed, "model"))
        if devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(derive_seed(seed, "model"))
        yield
