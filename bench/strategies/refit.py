"""What val chose, fitted again on train and val together; it knows no test split and no strategy.

The setting is the chosen one, and training ends after the chosen epoch of the same schedule: what
val has seen to be good is done again with more data, not something it has not seen. A rate that
falls to zero over the whole schedule is therefore not at zero where an earlier epoch was chosen.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bench.digests import digest_strings
from bench.errors import StrategyError
from bench.interfaces import Adapted, Refit, Split, Task
from bench.record import RefitInfo, Selection
from bench.spec import StrategySpec

JOINED = "train+val"


def settle(spec: StrategySpec, selection: Selection | None) -> tuple[StrategySpec, int | None]:
    """Return a spec with the chosen value of each field, and the chosen epoch where there is one.

    Args:
        spec: With its grids.
        selection: What val saw.

    Raises:
        StrategyError: The selection does not say what was chosen of a grid.
    """
    if selection is None:
        raise StrategyError(f"{spec.name}: no selection to refit with, although there was a val")
    point = selection.points[selection.chosen]
    strangers = [name for name in point.setting if not hasattr(spec, name)]
    settled = spec.model_copy(update=point.setting)
    if strangers or len(settled.grid_points()) > 1:
        held = ", ".join(point.setting) or "nothing"
        raise StrategyError(
            f"{spec.name}: cannot refit: its selection tells the chosen value of {held}, which is "
            "not every field with a grid. Give single values, or leave refit out."
        )
    return settled, point.best_epoch


def refit_task(task: Task, epoch: int | None, *, chosen: bool) -> Task:
    """Return the task with train and val as one train.

    Args:
        task: That the choice was made with, or could have been.
        epoch: The chosen one, if one was.
        chosen: Whether anything was chosen on val.
    """
    assert task.val is not None
    refit = Refit(task.train, task.val, epoch) if chosen else None
    return replace(task, train=join_splits(task.train, task.val), val=None, refit=refit)


def join_splits(first: Split, second: Split) -> Split:
    """Return the examples of two splits of one pool as one, rows ascending."""
    rows = np.concatenate([first.rows, second.rows])
    order = np.argsort(rows, kind="stable")
    every = (*first.ids, *second.ids)
    ids = tuple(every[place] for place in order)
    return replace(
        first,
        name=JOINED,
        ids=ids,
        labels=np.concatenate([first.labels, second.labels])[order],
        rows=rows[order],
        ids_digest=digest_strings(ids),
    )


def describe_refit(task: Task, adapted: Adapted) -> RefitInfo:
    """Return what the record says of a second fit.

    Args:
        task: Of that fit.
        adapted: Its result.

    Raises:
        StrategyError: It did not end at the chosen epoch.
    """
    epochs = len(adapted.curve) or None
    wanted = None if task.refit is None else task.refit.epoch
    if wanted is not None and epochs != wanted:
        raise StrategyError(
            f"the second fit trained {epochs or 0} epochs where {wanted} were chosen: a strategy "
            "that takes epochs must end at Task.last_epoch"
        )
    return RefitInfo(
        num_examples=len(task.train),
        ids_digest=task.train.ids_digest,
        epochs=epochs,
        curve=adapted.curve,
    )
