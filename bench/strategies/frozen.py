"""What strategies on frozen features share: loading, choosing on val, the adapted model.

It knows no classifier: a strategy brings the head, from features to logits, and what it fitted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import StrategyError
from bench.interfaces import Adapted, Split, Task
from bench.record import Effective, GridPoint, NumericsPlan, Selection
from bench.strategies.calibration import fit_scale
from bench.strategies.features import count_constant, extract_features, plan_features
from bench.strategies.probe import LabelledFeatures, check_part

Setting: TypeAlias = Mapping[str, float | int | str]
"""Values of a strategy's fields at one point of its grid."""


_TELLING = 0.99
"""Held-out scores calibrate where their loss is below this share of that of even odds."""


@dataclass(frozen=True)
class FrozenFeatures:
    """Features of train and val, on the device, float32, shape (N, D).

    Attributes:
        val: None where nothing is to be chosen.
        plan: Numerics of the pass that made them.
        num_classes: K, of which some may have no train example.
        num_constant: Dimensions with one value over train.
    """

    train: LabelledFeatures
    val: LabelledFeatures | None
    plan: NumericsPlan
    num_classes: int
    num_constant: int

    @property
    def counts(self) -> Tensor:
        """Train examples per class, int64, shape (K,)."""
        return torch.bincount(self.train.labels, minlength=self.num_classes)

    @property
    def can_leave_one_out(self) -> bool:
        """Whether every class that train has keeps an example when one is taken away."""
        counts = self.counts
        return not bool((counts == 1).any()) and int((counts > 0).sum()) > 1


def load_frozen(task: Task) -> FrozenFeatures:
    """Return the features of a task's splits; only images the run has not met are encoded.

    Raises:
        StrategyError: See `extract_features` and `count_constant`.
        ProbeError: Labels do not fit the classes.
    """
    plan = plan_features(task.backbone, task.train, task.runtime)
    train = load_labelled(task, task.train, plan)
    val = None if task.val is None else load_labelled(task, task.val, plan)
    for name, part in (("train", train), ("val", val)):
        check_part(name, part, task.num_classes, task.backbone.info.feature_dim)
    constant = count_constant(train.features, task.backbone)
    return FrozenFeatures(train, val, plan, task.num_classes, constant)


def load_labelled(task: Task, split: Split, plan: NumericsPlan) -> LabelledFeatures:
    """Return a split's features and labels on the device."""
    features = extract_features(task.backbone, split, task.runtime, plan)
    device = task.runtime.device
    return LabelledFeatures(features.to(device), torch.from_numpy(split.labels).to(device))


@dataclass(frozen=True)
class Choice:
    """One of several settings, the scale of its scores, and what val saw.

    Attributes:
        index: Of the setting.
        scale: Scores times this are logits.
        selection: None without val.
        notes: How the scale was found, where not on val.
    """

    index: int
    scale: float
    selection: Selection | None = None
    notes: tuple[str, ...] = ()


def choose_on_val(
    settings: Sequence[Setting],
    scores_of: Callable[[int], Tensor],
    labels: Tensor,
    bounds: Mapping[str, tuple[float, float]] | None = None,
) -> Choice:
    """Return the best setting by val accuracy, of equals by val loss, of equals the first.

    The loss is that of calibrated scores: each setting has the scale that suits it.

    Args:
        settings: Points of the grid.
        scores_of: Index of a setting -> its scores on val, shape (N, K).
        labels: Of val, shape (N,).
        bounds: By field, least and greatest value that means anything: they are no edge.
    """
    points, scales = [], []
    for index, setting in enumerate(settings):
        scores = scores_of(index)
        scale = fit_scale(scores, labels)
        accuracy = float((scores.argmax(1) == labels).double().mean())
        loss = float(F.cross_entropy(scores.double() * scale, labels))
        scales.append(scale)
        points.append(GridPoint(setting=dict(setting), val_accuracy=accuracy, val_loss=loss))
    best = min(range(len(points)), key=lambda index: _rank(points[index]))
    edge = _is_edge(settings, best, bounds or {})
    return Choice(
        best, scales[best], Selection(points=tuple(points), chosen=best, at_grid_edge=edge)
    )


def take_only(
    settings: Sequence[Setting],
    frozen: FrozenFeatures,
    held_out: Callable[[], Tensor],
    fallback: float,
) -> Choice:
    """Return the one setting there is where there is no val; its scale comes from train.

    Args:
        settings: Exactly one.
        frozen: Gives the labels of train.
        held_out: Makes scores of each train example from all others, shape (N, K).
        fallback: Scale where a class has a single example, so that nothing can be left out, or
            where scores without an example's own part say nothing of its label.

    Raises:
        StrategyError: There are several settings and nothing to choose by.
    """
    if len(settings) > 1:
        fields = sorted({key for point in settings for key in point if _values(settings, key)[1:]})
        raise StrategyError(
            f"{len(settings)} settings and no val split to choose by: give one value of "
            f"{' and '.join(fields)}"
        )
    reason = "a class has one example"
    if frozen.can_leave_one_out:
        scores, labels = held_out(), frozen.train.labels
        scale = fit_scale(scores, labels)
        loss = float(F.cross_entropy(scores.double() * scale, labels))
        if loss < _TELLING * math.log(frozen.num_classes):
            return Choice(0, scale)
        # With strong penalties and few examples a class is likeliest where it was not left out.
        reason = "an example's label cannot be told from the others of train"
    note = f"probabilities are not calibrated ({reason}): scale {fallback:.3g}"
    return Choice(0, fallback, notes=(note,))


class FrozenClassifier(nn.Module):
    """Normalised inputs -> logits, float32: a backbone and any head on its features.

    Args:
        backbone: Inputs, shape (B, 3, H, W) -> features, shape (B, D).
        head: Features, float32 -> logits, shape (B, K).
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    @property
    def kind(self) -> str:
        """What decides the cost of the head: its class, what it says of it, the shapes it holds."""
        held = [tuple(value.shape) for value in self.head.state_dict().values()]
        own = getattr(self.head, "cost", "")
        return f"{type(self.head).__name__}{own and f' {own}'} {held}"

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits, shape (B, K), float32; the head is in float32 under any autocast."""
        features = self.backbone(inputs)
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.head(features.float())
        return logits


@dataclass(frozen=True)
class FittedHead:
    """A head as a strategy fitted it.

    Attributes:
        module: Features, shape (B, D), float32 -> logits, shape (B, K), in eval mode.
        num_fitted: Numbers that were fitted to labels.
        selection: What val saw.
        notes: For people, in the record.
    """

    module: nn.Module
    num_fitted: int
    selection: Selection | None
    notes: tuple[str, ...] = ()


def adapt_head(
    task: Task, frozen: FrozenFeatures, head: FittedHead, classifier: nn.Module | None = None
) -> Adapted:
    """Return a frozen backbone with a fitted head, ready for evaluation and profile.

    Args:
        task: As the strategy got it.
        frozen: What the head was fitted on.
        head: The fit.
        classifier: The deployable model; None makes a `FrozenClassifier`.
    """
    device = task.runtime.device
    module = head.module.to(device).eval()
    model = classifier or FrozenClassifier(task.backbone.module, module)

    def predict(split: Split) -> Tensor:
        features = extract_features(task.backbone, split, task.runtime, frozen.plan)
        with torch.no_grad():
            logits: Tensor = module(features.to(device))
        return logits.detach().cpu()

    return Adapted(
        predict=predict,
        effective=Effective(
            device=str(device), forward=frozen.plan, notes=(*head.notes, *_constant_note(frozen))
        ),
        num_parameters=task.backbone.info.num_parameters + head.num_fitted,
        num_trainable_parameters=head.num_fitted,
        classifier=model.to(device).eval(),
        selection=head.selection,
    )


def _constant_note(frozen: FrozenFeatures) -> tuple[str, ...]:
    width = frozen.train.features.shape[1]
    constant = frozen.num_constant
    return (f"{constant} of {width} features are constant on train",) if constant else ()


def _rank(point: GridPoint) -> tuple[float, float]:
    assert point.val_accuracy is not None
    assert point.val_loss is not None
    return -point.val_accuracy, point.val_loss


def _values(settings: Sequence[Setting], key: str) -> list[float | int | str]:
    return list(dict.fromkeys(setting[key] for setting in settings))


def _is_edge(
    settings: Sequence[Setting], chosen: int, bounds: Mapping[str, tuple[float, float]]
) -> bool | None:
    """Return whether a chosen number is the least or greatest of three values tried or more."""
    wide = []
    for key in settings[chosen]:
        numbers = [value for value in _values(settings, key) if not isinstance(value, str)]
        if len(numbers) > 2:
            wide.append((key, min(numbers), max(numbers)))
    if not wide:
        return None
    for key, low, high in wide:
        value = settings[chosen][key]
        assert not isinstance(value, str)
        least, most = bounds.get(key, (float("-inf"), float("inf")))
        if value in (low, high) and least < value < most:
            return True
    return False
