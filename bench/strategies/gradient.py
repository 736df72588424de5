"""A grid of settings trained one after another, and the best of them; it knows no test split.

What `full` and `partial` share: the head, numerics, feeds, selection on val, and the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from bench.errors import DivergedError, StrategyError
from bench.interfaces import Adapted, Split, Stage, Task
from bench.numerics import apply_plan, plan_forward, plan_train
from bench.record import Effective, GridPoint, NumericsPlan, Progress, Selection
from bench.spec import TrainingSpec
from bench.strategies.evaluation import eval_batch_size, predict_logits
from bench.strategies.feed import Feed, ImageFeed
from bench.strategies.freeze import (
    Trained,
    all_tensors,
    check_frozen,
    copy_tensors,
    digest_tensors,
    restore_tensors,
)
from bench.strategies.head import Classifier, make_head
from bench.strategies.loop import Fit, Training, TrainStep, is_better, train_setting
from bench.strategies.microbatch import describe_accumulation, smallest_pass, with_fewer
from bench.strategies.prefix import PlainPath
from bench.strategies.prefix_cache import cache_prefix
from bench.strategies.schedule import fixed

NO_VAL = "no val split: every epoch was trained and the last one kept"


StagesOf: TypeAlias = Callable[[TrainingSpec], tuple[Stage, ...] | None]


@dataclass(frozen=True)
class Chosen:
    """The best setting of a grid, its training with the best weights in the model, and the grid."""

    setting: TrainingSpec
    training: Training
    fit: Fit
    selection: Selection


def adapt_by_gradient(task: Task, spec: TrainingSpec, stages_of: StagesOf) -> Adapted:
    """Train every setting of a spec from the same start and return the best on val.

    Args:
        task: Backbone, train, val, seed and machine.
        spec: Fields that are tuples are a grid.
        stages_of: Setting -> stages of the backbone that train with the head, None for all of it;
            of two settings, the one with more stages has those of the other too.

    Raises:
        DivergedError: No setting kept a finite loss.
        StrategyError: A grid without val, or a frozen tensor that changed.
    """
    settings = spec.grid_points()
    if task.val is None and len(settings) > 1:
        raise StrategyError(
            f"{spec.name}: a grid of {len(settings)} settings and no val split to choose on. Give "
            "single values, or data that leaves a val split."
        )
    stages = [stages_of(setting) for setting in settings]
    classifier = _build(task, spec)
    # Nothing is frozen where everything trains, and a large model takes seconds to digest.
    frozen = {} if None in stages else all_tensors(classifier)
    before = digest_tensors(frozen)
    forward = _plan_forward(task)
    trainings = _prepare_trainings(task, spec, classifier, stages, forward)
    with task.runtime.phase("train"):
        chosen = choose_setting(spec, trainings, task.runtime.emit)
    # What is deployed and profiled is the plain model, on the same tensors.
    plain = Trained(classifier, chosen.training.trained.stages)
    chosen = replace(chosen, training=replace(chosen.training, trained=plain))
    check_frozen(before, plain)
    return _assemble(task, forward, chosen)


def _build(task: Task, spec: TrainingSpec) -> Classifier:
    weights = None
    if spec.head_init == "probe":
        # Imported late: the probe's solver is not needed otherwise.
        from bench.strategies.linear_probe import probe_head

        weights = probe_head(task)
    head = make_head(task.backbone.info.feature_dim, task.num_classes, weights)
    return Classifier(task.backbone.module, head).to(task.runtime.device)


def _plan_forward(task: Task) -> NumericsPlan:
    with task.runtime.phase("numerics"):
        inputs, _ = _first_batch(task, eval_batch_size(task.runtime.device))
        name = {"weights": task.backbone.info.weights_digest}
        return with_fewer(
            lambda size: plan_forward(task.backbone.module, inputs[:size], task.runtime, key=name),
            len(inputs),
            task.runtime.device,
        )


def _plan_train(task: Task, spec: TrainingSpec, trained: Trained) -> NumericsPlan:
    """Return the numerics of a step at the first batch size of the grid."""
    trained.require_gradients()
    trained.train()
    with task.runtime.phase("numerics"):
        inputs, labels = _first_batch(task, fixed(spec.grid_points()[0].batch_size))
        name = {
            "weights": task.backbone.info.weights_digest,
            "num_classes": task.num_classes,
            "stages": None if trained.stages is None else [stage.name for stage in trained.stages],
        }
        module = trained.classifier
        return with_fewer(
            lambda n: plan_train(module, inputs[:n], labels[:n], task.runtime, key=name),
            len(labels),
            task.runtime.device,
            floor=smallest_pass(module),
        )


def _first_batch(task: Task, count: int) -> tuple[Tensor, Tensor]:
    feed = _stream(task, task.train)
    count = min(count, len(feed))
    batch = next(feed.batches(torch.arange(count), (count,)))
    return batch.inputs, batch.labels


def _stream(task: Task, split: Split) -> ImageFeed:
    return ImageFeed(split, task.backbone.preprocessing, task.runtime.device, resident=False)


def _prepare_trainings(
    task: Task,
    spec: TrainingSpec,
    classifier: Classifier,
    stages: Sequence[tuple[Stage, ...] | None],
    forward: NumericsPlan,
) -> list[Training]:
    """Return a training per setting; they share data, and numerics where the same stages train."""
    images = _Images(task)
    by_stages: dict[tuple[Stage, ...] | None, Training] = {}
    for part in stages:
        if part not in by_stages:
            trained = Trained(classifier, part)
            plan = _plan_train(task, spec, trained)
            # A cut behind a frozen prefix cannot be compiled; the step's plan sees to that itself.
            compiled = forward.compiled and part is None
            val = {"memory_format": plan.memory_format, "compiled": compiled}
            val_plan = forward.model_copy(update=val)
            by_stages[part] = _prepare(task, spec, images, (trained, plan, val_plan))
    return [by_stages[part] for part in stages]


class _Images:
    """Images of train and val, held for training from the first time they are asked for."""

    def __init__(self, task: Task) -> None:
        self._task = task

    @cached_property
    def feeds(self) -> tuple[ImageFeed, ImageFeed | None]:
        task = self._task

        def hold(split: Split) -> ImageFeed:
            return ImageFeed(split, task.backbone.preprocessing, task.runtime.device, resident=True)

        with task.runtime.phase("decode"):
            return hold(task.train), None if task.val is None else hold(task.val)


def _prepare(
    task: Task,
    spec: TrainingSpec,
    images: _Images,
    model: tuple[Trained, NumericsPlan, NumericsPlan],
) -> Training:
    """Return a training from cached activations where a prefix is frozen, else from images."""
    trained, plan, val_plan = model
    train: Feed
    val: Feed | None
    notes: tuple[str, ...] = ()
    try:
        if trained.stages is None:
            train, val = images.feeds
        elif spec.augmentation != "none":
            raise PlainPath("images are augmented")
        elif spec.mixup or spec.cutmix:
            raise PlainPath("images are mixed")
        else:
            apply_plan(trained.classifier, plan)
            # Folding is exact up to rounding; the cut is held to the plain model's own bits.
            val_plan = val_plan.model_copy(update={"folded": False})
            cached = cache_prefix(task, trained, plan, val_plan)
            trained, train, val = cached.trained, cached.train, cached.val
            notes = cached.notes
    except PlainPath as reason:
        train, val = images.feeds
        notes = (f"frozen prefix run in every epoch: {reason}",)
    return Training(
        trained=trained,
        train=train,
        val=val,
        train_plan=plan,
        val_plan=val_plan,
        device=task.runtime.device,
        seed=task.seed,
        notes=notes,
    )


def choose_setting(
    spec: TrainingSpec, trainings: Sequence[Training], emit: Callable[[Progress], None]
) -> Chosen:
    """Train every grid point from the weights at hand and leave the best one's in the model.

    Args:
        spec: With its grids.
        trainings: One per grid point, on one classifier.
        emit: Told of every epoch.

    Raises:
        DivergedError: Every point diverged.
    """
    settings = spec.grid_points()
    widest = max((training.trained for training in trainings), key=_breadth)
    start = copy_tensors(widest) if len(settings) > 1 else None
    points: list[GridPoint] = []
    best: tuple[int, Fit] | None = None
    micro_batch: int | None = None
    for number, (setting, training) in enumerate(zip(settings, trainings, strict=True)):
        if start is not None:
            restore_tensors(widest, start)
        _enter(training.trained, training.train_plan)
        report = partial(_report, emit, setting.epochs, (number + 1, len(settings)))
        fit = train_setting(replace(training, report=report, micro_batch=micro_batch), setting)
        micro_batch = fit.micro_batch or micro_batch
        points.append(describe_point(spec, setting, fit))
        if fit.diverged is None and (best is None or is_better(fit.best, best[1].best)):
            best = number, fit
    if best is None:
        raise DivergedError(_all_diverged(spec, points))
    index, fit = best
    if start is not None:
        restore_tensors(widest, start)
    _enter(trainings[index].trained, trainings[index].train_plan)
    restore_tensors(trainings[index].trained, fit.state)
    edge = is_at_grid_edge(spec, settings[index])
    selection = Selection(points=tuple(points), chosen=index, at_grid_edge=edge)
    training = replace(trainings[index], micro_batch=fit.micro_batch)
    return Chosen(settings[index], training, replace(fit, state={}), selection)


def _breadth(trained: Trained) -> float:
    return math.inf if trained.stages is None else len(trained.stages)


def _enter(trained: Trained, plan: NumericsPlan) -> None:
    """Make the model ready for a training: gradients and memory format."""
    trained.require_gradients()
    apply_plan(trained.classifier, plan)


def _report(
    emit: Callable[[Progress], None],
    num_epochs: int,
    place: tuple[int, int],
    epoch: int,
    accuracy: float | None,
) -> None:
    emit(
        Progress(
            phase="train",
            epoch=epoch,
            num_epochs=num_epochs,
            grid_point=place[0],
            num_grid_points=place[1],
            val_accuracy=accuracy,
        )
    )


def grid_fields(spec: TrainingSpec) -> Mapping[str, tuple[Any, ...]]:
    """Return the values of each field that is a grid."""
    return {key: value for key, value in spec.model_dump().items() if isinstance(value, tuple)}


def describe_point(spec: TrainingSpec, setting: TrainingSpec, fit: Fit) -> GridPoint:
    """Return what the record says of one setting: the fields that vary, and its best epoch."""
    values = {key: getattr(setting, key) for key in grid_fields(spec)}
    notes = [f"{fit.micro_batch} examples per pass, for memory"] if fit.micro_batch else []
    if fit.diverged is not None:
        note = "; ".join([f"diverged: {fit.diverged}", *notes])
        return GridPoint(setting=values, val_accuracy=None, val_loss=None, note=note)
    if fit.best.val_accuracy is None:
        notes.insert(0, NO_VAL)
    return GridPoint(
        setting=values,
        val_accuracy=fit.best.val_accuracy,
        val_loss=fit.best.val_loss,
        best_epoch=fit.best_epoch,
        note="; ".join(notes) or None,
    )


def is_at_grid_edge(spec: TrainingSpec, setting: TrainingSpec) -> bool | None:
    """Return whether a choice is the lowest or highest of a grid of three values or more.

    None where no field has that many: of two values each is an edge and nothing is learned.
    """
    wide = {key: set(values) for key, values in grid_fields(spec).items() if len(set(values)) > 2}
    if not wide:
        return None
    return any(getattr(setting, key) in (min(values), max(values)) for key, values in wide.items())


def _all_diverged(spec: TrainingSpec, points: Sequence[GridPoint]) -> str:
    tried = [
        ", ".join(f"{key} {value:g}" for key, value in point.setting.items()) or "the one setting"
        for point in points
    ]
    reasons = "; ".join(f"{what}: {point.note}" for what, point in zip(tried, points, strict=True))
    return (
        f"{spec.name}: every setting diverged ({reasons}). Lower learning_rate, set clip_norm, or "
        "pin numerics: fp32."
    )


def _assemble(task: Task, forward: NumericsPlan, chosen: Chosen) -> Adapted:
    # What the result's functions name, they keep alive. It is not the training with its feeds:
    # images held on the device would count in every memory figure taken later.
    trained, plan, device = chosen.training.trained, chosen.training.train_plan, task.runtime.device
    classifier, setting = trained.classifier, chosen.setting
    micro_batch = chosen.training.micro_batch

    def predict(split: Split) -> Tensor:
        apply_plan(classifier, forward)
        return predict_logits(classifier, _stream(task, split), forward, device).cpu()

    def training_step() -> Callable[[Tensor, Tensor], None]:
        # On the model itself: a copy would add its own memory to what is measured. Predictions
        # made after a step come from other weights, so the profile runs last.
        _enter(trained, plan)
        trained.train()
        step = TrainStep(trained, setting, plan, device, micro_batch)

        def run(inputs: Tensor, labels: Tensor) -> None:
            step(inputs, labels)

        return run

    return Adapted(
        predict=predict,
        classifier=classifier,
        training_step=training_step,
        effective=_describe_effective(task, forward, chosen),
        num_parameters=sum(value.numel() for value in classifier.parameters()),
        num_trainable_parameters=sum(value.numel() for value in trained.parameters()),
        selection=None if task.val is None else chosen.selection,
        curve=chosen.fit.curve,
    )


def _describe_effective(task: Task, forward: NumericsPlan, chosen: Chosen) -> Effective:
    requested = fixed(chosen.setting.batch_size)
    used = min(requested, len(task.train))
    notes = [*chosen.training.notes] if task.val is not None else [*chosen.training.notes, NO_VAL]
    if used < requested:
        notes.append(f"batch size {used} in place of {requested}: train has no more examples")
    at_once = chosen.training.micro_batch
    if at_once is not None:
        chosen.training.trained.train()
        notes.append(describe_accumulation(chosen.training.trained.classifier, at_once, used))
    points = chosen.selection.points
    if diverged := sum(point.best_epoch is None for point in points):
        notes.append(f"{diverged} of {len(points)} settings diverged")
    return Effective(
        device=str(task.runtime.device),
        forward=forward,
        train=chosen.training.train_plan,
        requested_batch_size=requested,
        batch_size=at_once or used,
        effective_batch_size=used,
        notes=tuple(notes),
    )
