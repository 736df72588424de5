"""Where a frozen prefix ends, and the model on both sides of that cut; it stores nothing.

The model's own `forward` is used on both sides of the cut, so no architecture is described here.
Up to the cut it is stopped there; behind it, it runs on one example whose finished modules answer
from memory, and the cut answers with the stored batch. Whether that is the plain model is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from bench.meters import is_out_of_memory
from bench.numerics import autocast, prepare_inputs
from bench.record import NumericsPlan
from bench.strategies.freeze import Trained, copy_tensors, restore_tensors
from bench.strategies.head import Classifier
from bench.strategies.loop import seeded

_NUM_CANDIDATES = 3
_TOLERANCE = {"fp32": 1e-5, "tf32": 1e-3, "bf16": 1e-2, "fp16": 1e-2}


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
            reason = f"cut at {path}: " + (describe_difference(trained, cut, inputs, plan) or "")
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


def describe_difference(
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
