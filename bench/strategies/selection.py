"""The settings of a grid trained one after another, and the best on val; it knows no data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from bench.errors import DivergedError
from bench.numerics import apply_plan
from bench.record import GridPoint, NumericsPlan, Progress, Selection
from bench.spec import TrainingSpec
from bench.strategies.freeze import Trained, copy_tensors, restore_tensors
from bench.strategies.loop import Fit, Training, is_better, train_setting

NO_VAL = "no val split: every epoch was trained and the last one kept"


@dataclass(frozen=True)
class Chosen:
    """The best setting of a grid, its training with the best weights in the model, and the grid."""

    setting: TrainingSpec
    training: Training
    fit: Fit
    selection: Selection


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
        enter(training.trained, training.train_plan)
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
    enter(trainings[index].trained, trainings[index].train_plan)
    restore_tensors(trainings[index].trained, fit.state)
    edge = is_at_grid_edge(spec, settings[index])
    selection = Selection(points=tuple(points), chosen=index, at_grid_edge=edge)
    training = replace(trainings[index], micro_batch=fit.micro_batch)
    return Chosen(settings[index], training, replace(fit, state={}), selection)


def _breadth(trained: Trained) -> float:
    return math.inf if trained.stages is None else len(trained.stages)


def enter(trained: Trained, plan: NumericsPlan) -> None:
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
