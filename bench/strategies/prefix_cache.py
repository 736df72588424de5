"""A frozen prefix run once: activations at its cut, stored; knows no grid and no optimiser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.artifacts import RowArray
from bench.interfaces import Split, Task
from bench.numerics import autocast, prepare_inputs
from bench.record import NumericsPlan
from bench.strategies.activations import STORED, ActivationFeed, Layout
from bench.strategies.evaluation import eval_batch_size
from bench.strategies.features import pass_key
from bench.strategies.feed import InputFeed
from bench.strategies.freeze import Trained, copy_tensors, digest_tensors, restore_tensors
from bench.strategies.microbatch import EvalBatch
from bench.strategies.prefix import (
    Cut,
    PlainPath,
    Suffix,
    describe_difference,
    find_cut,
    run_prefix,
)

if TYPE_CHECKING:
    import numpy as np

# Beyond it, writing and reading activations costs disk that a cell should not take unasked, and
# more than a host's page cache holds beside the images.
BUDGET_BYTES = 2 << 30
_NUM_CHECKED = 8
# Narrower than what the pass itself computes with is a change of numerics, so fp32 and tf32 forbid
# it. fp16 could overflow for an image that the check did not see.
_NARROWER = {"bf16": torch.bfloat16}


@dataclass(frozen=True)
class CachedPrefix:
    """A training's model and data behind its cut; notes say what differs from the plain path."""

    trained: Trained
    train: ActivationFeed
    val: ActivationFeed | None
    notes: tuple[str, ...] = ()


def cache_prefix(
    task: Task, trained: Trained, train_plan: NumericsPlan, val_plan: NumericsPlan
) -> CachedPrefix:
    """Return the suffix and its activations, computed where the cache does not have them.

    Call it before any training, with plan and gradients applied: prefixes are those of the weights
    as loaded. The trained tensors are the same bits before and after.

    Raises:
        PlainPath: There is no cut, it is not the plain model, or activations are too large.
    """
    device = task.runtime.device
    trained.require_gradients()
    trained.train()
    with task.runtime.phase("prefix"):
        count = min(_NUM_CHECKED, len(task.train))
        images = _images(task, task.train)
        inputs = next(images.batches(torch.arange(count), (count,))).inputs
        cut = find_cut(trained, inputs, train_plan, device)
        suffix = replace(trained, classifier=Suffix(trained.classifier, cut))
        # What one pass may hold at once is asked of the forward pass alone.
        plan = train_plan.model_copy(update={"batch_size": val_plan.batch_size})
        sources = [(task.train, plan)] + ([(task.val, val_plan)] if task.val else [])
        layouts = [_layout(trained, cut, inputs, plan) for _, plan in sources]
        _check_budget([split for split, _ in sources], layouts)
        feeds = [
            ActivationFeed(split, _fill(task, trained, cut, split, plan, layout), layout, device)
            for (split, plan), layout in zip(sources, layouts, strict=True)
        ]
    narrowed = {f"{each.dtype} of {each.computed}" for each in layouts if each.is_narrowed}
    notes = tuple(f"activations kept as {what}, which agrees" for what in sorted(narrowed))
    return CachedPrefix(suffix, feeds[0], feeds[1] if task.val else None, notes)


def _layout(trained: Trained, cut: Cut, inputs: Tensor, plan: NumericsPlan) -> Layout:
    """Return how activations under a plan are stored: in the narrowest dtype that agrees."""
    start = copy_tensors(trained)
    with autocast(plan, inputs.device):
        inputs = prepare_inputs(inputs, plan)
        output = run_prefix(trained.classifier, cut, inputs)
        if output.dtype not in STORED or len(output) != len(inputs):
            raise PlainPath(f"cut at {cut.path}: activations are {output.dtype}")
        shape = tuple(output.shape[1:])
        shape = (*shape[1:], shape[0]) if cut.channels_last else shape
        layout = Layout(shape, output.dtype, output.dtype, cut.channels_last)
        narrower = _NARROWER.get(plan.precision, output.dtype)
        if narrower.itemsize >= output.dtype.itemsize:
            return layout
        narrow = replace(layout, dtype=narrower)
        differs = describe_difference(
            trained, cut, inputs, plan, lambda x: narrow.restore(narrow.store(x))
        )
    restore_tensors(trained, start)
    trained.train()
    return layout if differs else narrow


def _check_budget(splits: Sequence[Split], layouts: Sequence[Layout]) -> None:
    pairs = zip(splits, layouts, strict=True)
    needed = sum(len(set(split.rows.tolist())) * layout.num_bytes for split, layout in pairs)
    if needed > BUDGET_BYTES:
        raise PlainPath(
            f"activations would take {needed / 2**30:.1f} GiB, over {BUDGET_BYTES / 2**30:g} GiB"
        )


def _images(task: Task, split: Split) -> InputFeed:
    return InputFeed(split, task.backbone.preprocessing, task.runtime.device, resident=False)


def _fill(
    task: Task, trained: Trained, cut: Cut, split: Split, plan: NumericsPlan, layout: Layout
) -> RowArray:
    """Return the activations' array with the split's rows present."""
    device = task.runtime.device
    array = task.runtime.cache.rows(
        "prefix",
        pass_key(task.backbone, split, plan, device)
        | {"cut": cut.path, "channels_last": cut.channels_last, "computed": str(layout.computed)},
        shape=(len(split.pool), *layout.shape),
        dtype=STORED[layout.dtype],
        run_bound=True,
    )

    at_once = EvalBatch(eval_batch_size(device, plan), device)

    def make(rows: np.ndarray) -> np.ndarray:
        images = _images(task, replace(split, rows=rows, labels=rows))

        def run(first: int, sizes: Sequence[int]) -> Iterator[Tensor]:
            for batch in images.batches(torch.arange(first, len(rows)), sizes):
                inputs = prepare_inputs(batch.inputs, plan)
                yield layout.store(run_prefix(trained.classifier, cut, inputs)).cpu()

        with autocast(plan, device):
            values = torch.cat(at_once.collect(len(rows), run)).contiguous()
        stored: np.ndarray = (
            values.view(torch.int16) if layout.dtype == torch.bfloat16 else values
        ).numpy()
        return stored

    before = digest_tensors(dict(trained.classifier.named_buffers()))
    array.ensure(split.rows, make)
    if digest_tensors(dict(trained.classifier.named_buffers())) != before:
        raise PlainPath("the backbone changes its buffers in eval mode")
    return array
