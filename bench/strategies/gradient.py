"""A backbone adapted by gradient steps: what every strategy that takes them shares; no test split.

The head, numerics, feeds, selection on val, and the result. A strategy says by a `Recipe` in what
it differs from training the whole backbone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from bench.errors import StrategyError
from bench.interfaces import Adapted, SequencePool, Split, Stage, Task
from bench.numerics import apply_plan, plan_forward, plan_train
from bench.record import Effective, NumericsPlan
from bench.spec import TrainingSpec
from bench.strategies.evaluation import eval_batch_size, predict_logits
from bench.strategies.feed import Feed, InputFeed
from bench.strategies.freeze import (
    Trained,
    all_tensors,
    check_frozen,
    digest_tensors,
    refuse_image_fields,
)
from bench.strategies.head import Classifier, make_head
from bench.strategies.imbalance import balanced_weights
from bench.strategies.inputs import typical_batch
from bench.strategies.loop import Training, TrainStep
from bench.strategies.microbatch import describe_accumulation, smallest_pass, with_fewer
from bench.strategies.prefix import PlainPath
from bench.strategies.prefix_cache import cache_prefix
from bench.strategies.rule import PLAIN, StepRule
from bench.strategies.schedule import fixed
from bench.strategies.selection import NO_VAL, Chosen, choose_setting, enter

StagesOf: TypeAlias = Callable[[TrainingSpec], tuple[Stage, ...] | None]


@dataclass(frozen=True)
class Recipe:
    """In what a strategy differs from training the whole backbone by plain steps.

    Attributes:
        stages_of: Setting -> stages of the backbone that train with the head, None for all of it;
            of two settings, the one with more stages has those of the other too.
        rule_of: Setting -> how its steps differ from plain ones.
        without_prefix: Why activations of a frozen prefix are not stored; None stores them where
            a cut is proven.
        attach: Called with the classifier before anything is trained, after the forward pass was
            planned: keeps what is needed of it, or adds what trains in place of its weights.
        deploy: Makes the module what is deployed: called once training has ended.
        resume: Makes it again what trains, for the profile of a step.
    """

    stages_of: StagesOf = lambda setting: None
    rule_of: Callable[[TrainingSpec], StepRule] = lambda setting: PLAIN
    without_prefix: str | None = None
    attach: Callable[[Classifier], None] = lambda classifier: None
    deploy: Callable[[], None] = lambda: None
    resume: Callable[[], None] = lambda: None


def adapt_by_gradient(task: Task, spec: TrainingSpec, recipe: Recipe | None = None) -> Adapted:
    """Train every setting of a spec from the same start and return the best on val.

    Args:
        task: Backbone, train, val, seed and machine.
        spec: Fields that are tuples are a grid.
        recipe: What trains and how; None trains the whole backbone by plain steps.

    Raises:
        DivergedError: No setting kept a finite loss.
        StrategyError: A grid without val, a frozen tensor that changed, or augmentation of texts.
    """
    refuse_image_fields(task.backbone, spec)
    recipe = _weigh_classes(recipe or Recipe(), task, spec)
    settings = spec.grid_points()
    if task.val is None and len(settings) > 1:
        raise StrategyError(
            f"{spec.name}: a grid of {len(settings)} settings and no val split to choose on. Give "
            "single values, or data that leaves a val split."
        )
    classifier = _build(task, spec)
    forward = _plan_forward(task)
    recipe.attach(classifier)
    stages = [recipe.stages_of(setting) for setting in settings]
    # Nothing is frozen where everything trains, and a large model takes seconds to digest.
    frozen = {} if None in stages else all_tensors(classifier)
    before = digest_tensors(frozen)
    trainings = _prepare_trainings(task, spec, recipe, classifier, forward)
    with task.runtime.phase("train"):
        chosen = choose_setting(spec, trainings, task.runtime.emit)
    # What is deployed and profiled is the plain model, on the same tensors.
    plain = replace(chosen.training.trained, classifier=classifier)
    chosen = replace(chosen, training=replace(chosen.training, trained=plain))
    check_frozen(before, plain)
    return _assemble(task, recipe, forward, chosen)


def _weigh_classes(recipe: Recipe, task: Task, spec: TrainingSpec) -> Recipe:
    """Return the recipe with the loss weighted by class, where the spec asks for it."""
    if spec.class_weights == "none":
        return recipe
    weights = tuple(balanced_weights(task.train.labels, task.num_classes).tolist())

    def rule_of(setting: TrainingSpec) -> StepRule:
        return replace(recipe.rule_of(setting), class_weights=weights)

    return replace(recipe, rule_of=rule_of)


def _build(task: Task, spec: TrainingSpec) -> Classifier:
    weights = None
    if spec.head_init == "probe":
        # Imported late: the probe's solver is not needed otherwise.
        from bench.strategies.linear_probe import probe_head

        weights = probe_head(task, spec.class_weights)
    head = make_head(task.backbone.info.feature_dim, task.num_classes, weights)
    return Classifier(task.backbone.module, head).to(task.runtime.device)


def _plan_forward(task: Task) -> NumericsPlan:
    with task.runtime.phase("numerics"):
        inputs, _ = first_batch(task, eval_batch_size(task.runtime.device))
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
        inputs, labels = first_batch(task, fixed(spec.grid_points()[0].batch_size))
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


def first_batch(task: Task, count: int) -> tuple[Tensor, Tensor]:
    """Return inputs of typical length, and labels, of the first of train, on the device."""
    train, device = task.train, task.runtime.device
    positions = np.arange(min(count, len(train)))
    inputs = typical_batch(train, positions, device, task.backbone.preprocessing)
    return inputs, torch.from_numpy(train.labels[positions]).to(device)


def _stream(task: Task, split: Split) -> InputFeed:
    return InputFeed(split, task.backbone.preprocessing, task.runtime.device, resident=False)


def _prepare_trainings(
    task: Task,
    spec: TrainingSpec,
    recipe: Recipe,
    classifier: Classifier,
    forward: NumericsPlan,
) -> list[Training]:
    """Return a training per setting; they share data, and numerics where the same stages train."""
    images = _Images(task)
    by_stages: dict[tuple[Stage, ...] | None, Training] = {}
    trainings = []
    for setting in spec.grid_points():
        part = recipe.stages_of(setting)
        if part not in by_stages:
            trained = Trained(classifier, part, recipe.rule_of(setting))
            plan = _plan_train(task, spec, trained)
            if trained.rule.stages_in is not None:
                # A graph is of the part that trains when it is compiled; that changes here.
                plan = plan.model_copy(update={"compiled": False})
            # A cut behind a frozen prefix cannot be compiled; the step's plan sees to that itself.
            compiled = forward.compiled and part is None
            val = {"memory_format": plan.memory_format, "compiled": compiled}
            val_plan = forward.model_copy(update=val)
            model = trained, plan, val_plan
            by_stages[part] = _prepare(task, spec, images, model, recipe.without_prefix)
        shared = by_stages[part]
        own = replace(shared.trained, rule=recipe.rule_of(setting))
        trainings.append(replace(shared, trained=own))
    return trainings


class _Images:
    """Images of train and val, held for training from the first time they are asked for."""

    def __init__(self, task: Task) -> None:
        self._task = task

    @cached_property
    def feeds(self) -> tuple[InputFeed, InputFeed | None]:
        task = self._task

        def hold(split: Split) -> InputFeed:
            return InputFeed(split, task.backbone.preprocessing, task.runtime.device, resident=True)

        with task.runtime.phase("decode"):
            return hold(task.train), None if task.val is None else hold(task.val)


def _prepare(
    task: Task,
    spec: TrainingSpec,
    images: _Images,
    model: tuple[Trained, NumericsPlan, NumericsPlan],
    without_prefix: str | None,
) -> Training:
    """Return a training from cached activations where a prefix is frozen, else from images."""
    trained, plan, val_plan = model
    train: Feed
    val: Feed | None
    notes: tuple[str, ...] = ()
    try:
        if trained.stages is None:
            train, val = images.feeds
        elif _differ_in_length(task.train):
            raise PlainPath("texts and clips differ in length, and only the model has their masks")
        elif without_prefix is not None:
            raise PlainPath(without_prefix)
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
        last_epoch=task.last_epoch(spec.epochs),
    )


def _differ_in_length(split: Split) -> bool:
    """Return whether a pool has texts or clips of several lengths, padded where they meet."""
    pool = split.pool
    return isinstance(pool, SequencePool) and bool((pool.lengths != pool.lengths[0]).any())


def _assemble(task: Task, recipe: Recipe, forward: NumericsPlan, chosen: Chosen) -> Adapted:
    # What the result's functions name, they keep alive. It is not the training with its feeds:
    # images held on the device would count in every memory figure taken later.
    trained, plan, device = chosen.training.trained, chosen.training.train_plan, task.runtime.device
    classifier, setting = trained.classifier, chosen.setting
    micro_batch = chosen.training.micro_batch
    num_trainable = _count_trainable(trained)
    effective = _describe_effective(task, forward, chosen)
    recipe.deploy()

    def predict(split: Split) -> Tensor:
        apply_plan(classifier, forward)
        return predict_logits(classifier, _stream(task, split), forward, device).cpu()

    def training_step() -> Callable[[Tensor, Tensor], None]:
        # On the model itself: a copy would add its own memory to what is measured. Predictions
        # made after a step come from other weights, so the profile runs last.
        recipe.resume()
        enter(trained, plan)
        trained.train()
        step = TrainStep(trained, setting, plan, device, micro_batch)

        def run(inputs: Tensor, labels: Tensor) -> None:
            step(inputs, labels)

        return run

    return Adapted(
        predict=predict,
        classifier=classifier,
        training_step=training_step,
        effective=effective,
        num_parameters=sum(value.numel() for value in classifier.parameters()),
        num_trainable_parameters=num_trainable,
        selection=None if task.val is None else chosen.selection,
        curve=chosen.fit.curve,
    )


def _count_trainable(trained: Trained) -> int:
    # Where later epochs train more, the last one left the gradients required.
    trained.require_gradients()
    return sum(value.numel() for value in trained.parameters())


def _describe_effective(task: Task, forward: NumericsPlan, chosen: Chosen) -> Effective:
    requested = fixed(chosen.setting.batch_size)
    used = min(requested, len(task.train))
    notes = [*chosen.training.notes]
    if task.val is None and task.refit is None:
        notes.append(NO_VAL)
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
