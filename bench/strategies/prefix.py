"""Activations of a frozen prefix at a cut, computed once; knows no grid and no optimiser.

The model's own `forward` is used on both sides of the cut, so no architecture is described here.
Up to the cut it is stopped there; behind it, it runs on one example whose finished modules answer
from memory, and the cut answers with the stored batch. Whether that is the plain model is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from bench.artifacts import RowArray
from bench.interfaces import Split, Task
from bench.meters import is_out_of_memory
from bench.numerics import autocast, prepare_inputs
from bench.record import NumericsPlan
from bench.strategies.activations import STORED, ActivationFeed, Layout
from bench.strategies.features import pass_key
from bench.strategies.feed import ImageFeed
from bench.strategies.freeze import Trained, digest_tensors
from bench.strategies.head import Classifier
from bench.strategies.loop import copy_tensors, eval_batch_size, restore_tensors, seeded
from bench.strategies.microbatch import EvalBatch

if TYPE_CHECKING:
    import numpy as np

# Beyond it, writing and reading activations costs disk that a cell should not take unasked, and
# more than a host's page cache holds beside the images.
BUDGET_BYTES = 2 << 30
_NUM_CHECKED = 8
_NUM_CANDIDATES = 3
_TOLERANCE = {"fp32": 1e-5, "tf32": 1e-3, "bf16": 1e-2, "fp16": 1e-2}
# Narrower than what the pass itself computes with is a change of numerics, so fp32 and tf32 forbid
# it. fp16 could overflow for an image that the check did not see.
_NARROWER = {"bf16": torch.bfloat16}


class PlainPath(Exception):  # noqa: N818 - not an error: the plain path gives the same result
    """Why activations are not cached; caught by the caller and written into the record's notes."""


class _Stop(Exception):  # noqa: N818 - control flow, caught three lines below
    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output


@dataclass(frozen=True)
class Cut:
    """A module of the backbone whose output is all that flows on.

    Attributes:
        path: Of the module.
        example: Inputs, shape (1, 3, H, W), that carry the forward pass to the cut.
        finished: Outputs for the example of the modules that end before the cut, by path.
        channels_last: Whether the output has that memory order, and is stored in it.
    """

    path: str
    example: Tensor
    finished: Mapping[str, Any]
    channels_last: bool


class Suffix(Classifier):
    """Activations at a cut, shape (B, …) -> logits, on the very modules of a classifier.

    Args:
        classifier: Whose backbone and head are used; the backbone's prefix is not run.
        cut: Where the activations belong.
    """

    def __init__(self, classifier: Classifier, cut: Cut) -> None:
        super().__init__(classifier.backbone, classifier.head)
        self._cut = cut

    def features(self, activations: Tensor) -> Tensor:
        """Return features of stored activations, shape (B, D)."""
        ordered = torch.channels_last if self._cut.channels_last else torch.contiguous_format
        batch = activations.contiguous(memory_format=ordered)
        answers = {**self._cut.finished, self._cut.path: batch}
        with _answering(self.backbone, answers):
            output: Tensor = self.backbone(self._cut.example)
        return output

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits of activations, shape (B, K), float32."""
        features = self.features(inputs)
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.head(features.float())
        return logits


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


def find_cut(trained: Trained, inputs: Tensor, plan: NumericsPlan, device: torch.device) -> Cut:
    """Return the last module before the trained stages at which the model can be cut.

    Args:
        trained: In train mode, with gradients required; put back as it was.
        inputs: A few examples, shape (B, 3, H, W), B of two or more for a check worth the name.
        plan: Numerics of the training step.
        device: Where the model is.

    Raises:
        PlainPath: No module qualifies, or none reproduces the plain model.
    """
    inputs = prepare_inputs(inputs, plan)
    start = copy_tensors(trained)
    with autocast(plan, device):
        trace = _trace(trained, inputs[:1])
        reason = "no module with one tensor as output ends before the first trained stage"
        for path in islice(trace.candidates(), _NUM_CANDIDATES):
            cut = trace.cut_at(path)
            reason = f"cut at {path}: " + (_compare(trained, cut, inputs, plan) or "")
            restore_tensors(trained, start)
            trained.train()
            if reason == f"cut at {path}: ":
                return cut
    raise PlainPath(reason)


@dataclass(frozen=True)
class _Trace:
    """Modules that ended before the first trained one was entered, in order, with outputs."""

    example: Tensor
    ended: Mapping[str, Any]

    def candidates(self) -> Iterator[str]:
        for path in reversed(list(self.ended)):
            output = self.ended[path]
            if isinstance(output, Tensor) and output.dim() in (3, 4) and len(output) == 1:
                yield path

    def cut_at(self, path: str) -> Cut:
        paths = list(self.ended)
        before = paths[: paths.index(path)]
        outermost = [name for name in before if not _is_inside(name, [*before, path])]
        finished = {name: self.ended[name] for name in outermost}
        output = self.ended[path]
        ordered = output.dim() == 4 and not output.is_contiguous()
        return Cut(path, self.example, finished, ordered)


def _is_inside(name: str, paths: Sequence[str]) -> bool:
    return any(name.startswith(f"{path}.") for path in paths)


@torch.no_grad()
def _trace(trained: Trained, example: Tensor) -> _Trace:
    backbone = trained.classifier.backbone
    names = {module: name for name, module in backbone.named_modules() if name}
    calls: dict[str, int] = {}
    ended: dict[str, Any] = {}
    first_trained: list[str] = []

    def enter(module: nn.Module, _: Any) -> None:
        calls[names[module]] = calls.get(names[module], 0) + 1
        if any(value.requires_grad for value in module.parameters(recurse=False)):
            first_trained.append(names[module])

    def leave(module: nn.Module, _: Any, output: Any) -> None:
        if not first_trained:
            ended[names[module]] = output

    hooks = [module.register_forward_pre_hook(enter) for module in names]
    hooks += [module.register_forward_hook(leave) for module in names]
    trained.classifier.eval()
    try:
        backbone(example)
    finally:
        for hook in hooks:
            hook.remove()
        trained.train()
    # A stage may begin with modules without parameters, which have ended too: they run again.
    inside = tuple(path for stage in trained.stages or () for path in stage.modules)
    kept = {
        name: output
        for name, output in ended.items()
        if calls[name] == 1 and name not in inside and not _is_inside(name, inside)
    }
    return _Trace(example, kept)


def _compare(
    trained: Trained,
    cut: Cut,
    inputs: Tensor,
    plan: NumericsPlan,
    through: Callable[[Tensor], Tensor] = lambda activations: activations,
) -> str | None:
    """Return how the cut model differs from the plain one, or None; tensors are left changed.

    `through` is what becomes of activations between prefix and suffix.
    """
    suffix = Suffix(trained.classifier, cut)
    start = copy_tensors(trained)
    try:
        activations = through(run_prefix(trained.classifier, cut, inputs))
        for mode in ("eval", "train"):
            results = []
            for features in (trained.classifier.backbone, suffix.features):
                restore_tensors(trained, start)
                trained.train() if mode == "train" else trained.classifier.eval()
                shown = inputs if features is trained.classifier.backbone else activations.clone()
                with seeded(0, inputs.device):
                    results.append(_outcome(trained, features, shown))
            if (difference := _distance(*results)) is None or difference > _tolerance(plan):
                what = "another shape or no gradient" if difference is None else f"{difference:.1g}"
                return f"in {mode} mode it differs from the plain model ({what})"
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        return f"the model does not run from there ({str(error).splitlines()[0][:100]})"
    return None


def _tolerance(plan: NumericsPlan) -> float:
    return _TOLERANCE[plan.precision]


def _outcome(
    trained: Trained, features: Callable[[Tensor], Tensor], inputs: Tensor
) -> list[Tensor | None]:
    """Return features, gradients of a fixed projection of them, and buffers after the pass."""
    output = features(inputs).float()
    weights = torch.linspace(-1, 1, output.numel(), device=output.device).cos().view_as(output)
    parameters = [
        value for value in trained.classifier.backbone.parameters() if value.requires_grad
    ]
    gradients = torch.autograd.grad((output * weights).sum(), parameters, allow_unused=True)
    return [output.detach(), *gradients, *copy_tensors(trained).values()]


def _distance(first: Sequence[Tensor | None], second: Sequence[Tensor | None]) -> float | None:
    """Return the largest difference relative to the largest value; None where shapes differ."""
    largest = 0.0
    for one, other in zip(first, second, strict=True):
        if one is None and other is None:
            continue
        if one is None or other is None or one.shape != other.shape:
            return None
        scale = float(one.abs().max()) or 1.0
        difference = float((one.double() - other.double()).abs().max()) / scale
        largest = max(largest, difference) if difference == difference else float("inf")
    return largest


def run_prefix(classifier: Classifier, cut: Cut, inputs: Tensor) -> Tensor:
    """Return the activations of inputs at the cut, without gradient; nothing behind it runs."""

    def stop(module: nn.Module, _: Any, output: Tensor) -> NoReturn:
        raise _Stop(output)

    hook = classifier.backbone.get_submodule(cut.path).register_forward_hook(stop)
    try:
        with torch.no_grad():
            classifier.backbone(inputs)
    except _Stop as stopped:
        return stopped.output
    finally:
        hook.remove()
    raise PlainPath(f"cut at {cut.path}: the module is not always run")


@contextmanager
def _answering(backbone: nn.Module, answers: Mapping[str, Any]) -> Iterator[None]:
    """Let modules return given outputs in place of running."""
    modules = [(backbone.get_submodule(path), answer) for path, answer in answers.items()]
    try:
        for module, answer in modules:
            # On the instance, where it hides the method of the class until it is deleted.
            module.__dict__["forward"] = lambda *_, _answer=answer, **__: _answer
        yield
    finally:
        for module, _ in modules:
            module.__dict__.pop("forward", None)


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
        differs = _compare(trained, cut, inputs, plan, lambda x: narrow.restore(narrow.store(x)))
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


def _images(task: Task, split: Split) -> ImageFeed:
    return ImageFeed(split, task.backbone.preprocessing, task.runtime.device, resident=False)


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
