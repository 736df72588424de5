"""The linear probe's whole L2 path, chosen on val; it knows features and labels, no backbone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.errors import ProbeError
from bench.strategies.logistic import Solutions, solve_path

_CONSTANT = 1e-6
_ABSENT_MARGIN = 10.0


@dataclass(frozen=True)
class LabelledFeatures:
    """Features with their classes.

    Attributes:
        features: Float32, shape (N, D).
        labels: Class indices in [0, K), int64, shape (N,).
        weights: By how much the loss of each counts in a fit, positive, shape (N,); None is 1.
    """

    features: Tensor
    labels: Tensor
    weights: Tensor | None = None


@dataclass(frozen=True)
class ProbePoint:
    """One strength and how it did; the scores are None without val."""

    l2: float
    val_accuracy: float | None
    val_loss: float | None
    converged: bool


@dataclass(frozen=True)
class ProbePath:
    """A probe per strength, and the one that was chosen.

    Attributes:
        weight: Of the chosen, on features as given (not standardised), float32, shape (K, D).
        bias: Likewise, shape (K,).
        points: In the order of the path asked for.
        chosen: Index into `points`.
        at_grid_edge: Whether the choice is the largest or smallest of three strengths or more.
        notes: What is unusual, for people.
    """

    weight: Tensor
    bias: Tensor
    points: tuple[ProbePoint, ...]
    chosen: int
    at_grid_edge: bool | None
    notes: tuple[str, ...] = ()

    @property
    def converged(self) -> bool:
        """Whether every strength was solved to within 1e-4 of its least objective."""
        return all(point.converged for point in self.points)


@dataclass(frozen=True)
class Scaling:
    """Feature -> (feature - mean) * factor; the factor of a constant feature is 0.

    Attributes:
        mean: Over train, shape (D,).
        factor: One over the deviation over train, or 1, shape (D,).
    """

    mean: Tensor
    factor: Tensor

    def apply(self, features: Tensor) -> Tensor:
        """Return scaled features, shape (N, D)."""
        return (features - self.mean) * self.factor


def fit_probe(
    train: LabelledFeatures,
    val: LabelledFeatures | None = None,
    *,
    l2_path: Sequence[float],
    num_classes: int,
    standardize: bool = True,
) -> ProbePath:
    """Fit one multinomial logistic regression per L2 strength and keep the best on val.

    Per strength, the objective is scikit-learn's: the sum of the examples' weighted losses plus
    l2 * ||W||^2 / 2 on standardised features, with the bias not penalised. Best is the highest val
    accuracy, of equals the lowest val loss, of equals the strongest penalty. All on the device and
    in the precision of the train features.

    A class without train examples has no finite optimum: it is left out, and its logit is put
    below all logits of train.

    Args:
        train: What is fitted; also the only source of mean and standard deviation.
        val: What chooses the strength; may be None if there is one strength. Test never comes here.
        l2_path: Strengths, positive, in units of scikit-learn's 1/C, in any order.
        num_classes: K.
        standardize: Divide by the standard deviation; features are centred in any case.

    Raises:
        ProbeError: A feature is not finite, shapes or labels do not fit, fewer than two classes
            have examples, a strength is not positive, or several strengths and no val.

    Source: Kornblith et al., 2019, section 3 (protocol); the solver is `logistic`.
    """
    _check_path(l2_path, val)
    for name, part in (("train", train), ("val", val)):
        check_part(name, part, num_classes, train.features.shape[1])
    fitted = _fit(train, sorted(set(l2_path), reverse=True), standardize)
    scores = [(None, None) if val is None else fitted.score(row, val) for row in fitted.rows]
    best = min(fitted.rows, key=lambda row: _rank(scores[row]))
    points = {
        l2: ProbePoint(l2, scores[row][0], scores[row][1], fitted.converged(row))
        for row, l2 in enumerate(fitted.l2_path)
    }
    weight, bias = fitted.linear(best, train.features, num_classes)
    return ProbePath(
        weight=weight,
        bias=bias,
        points=tuple(points[l2] for l2 in l2_path),
        chosen=list(l2_path).index(fitted.l2_path[best]),
        at_grid_edge=None if len(fitted.rows) < 3 else best in (0, len(fitted.rows) - 1),
        notes=_notes(tuple(points.values()), num_classes - len(fitted.present)),
    )


@dataclass(frozen=True)
class _Fitted:
    """One solution per strength on scaled features, strongest first.

    Attributes:
        present: Classes with train examples, ascending; the solutions' rows are these.
    """

    l2_path: Sequence[float]
    solutions: Solutions
    scaling: Scaling
    present: Tensor

    @property
    def rows(self) -> range:
        return range(len(self.l2_path))

    def converged(self, row: int) -> bool:
        return bool(self.solutions.converged[row])

    def score(self, row: int, val: LabelledFeatures) -> tuple[float, float | None]:
        """Return val accuracy, and val loss over the examples whose class occurs in train."""
        scaled = self.scaling.apply(val.features)
        logits = scaled @ self.solutions.weights[row].T + self.solutions.bias[row]
        accuracy = float((self.present[logits.argmax(1)] == val.labels).double().mean())
        known = torch.isin(val.labels, self.present)
        if not known.any():
            return accuracy, None
        position = torch.searchsorted(self.present, val.labels[known])
        return accuracy, float(F.cross_entropy(logits[known], position))

    def linear(self, row: int, features: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Return weight and bias on features as given, with a row for every class."""
        weight = self.solutions.weights[row] * self.scaling.factor
        shift = (weight.double() @ self.scaling.mean.double()).to(weight.dtype)
        bias = self.solutions.bias[row] - shift
        if len(self.present) == num_classes:
            return weight, bias
        lowest = float((features @ weight.T + bias).min())
        every_weight = weight.new_zeros((num_classes, weight.shape[1]))
        every_bias = bias.new_full((num_classes,), lowest - _ABSENT_MARGIN)
        every_weight[self.present], every_bias[self.present] = weight, bias
        return every_weight, every_bias


def _fit(train: LabelledFeatures, l2_path: Sequence[float], standardize: bool) -> _Fitted:
    present, labels = torch.unique(train.labels, return_inverse=True)
    if len(present) < 2:
        raise ProbeError(
            f"a probe needs examples of two classes or more in train, got {len(present)}"
        )
    scaling = measure_scaling(train.features, standardize)
    scaled = scaling.apply(train.features)
    strengths = [1 / l2 for l2 in l2_path]
    solutions = solve_path(scaled, labels, len(present), strengths, train.weights)
    return _Fitted(l2_path, solutions, scaling, present)


def _check_path(l2_path: Sequence[float], val: LabelledFeatures | None) -> None:
    wrong = [value for value in l2_path if not (math.isfinite(value) and value > 0)]
    if wrong or not l2_path:
        raise ProbeError(f"L2 strengths must be positive and finite, got {wrong or 'none'}")
    if val is None and len(l2_path) > 1:
        raise ProbeError(
            f"{len(l2_path)} L2 strengths and no val split to choose by: give one strength, l2: 1.0"
        )


def check_part(
    name: str, part: LabelledFeatures | None, num_classes: int, feature_dim: int
) -> None:
    """Refuse features and labels that no classifier can be fitted on.

    Args:
        name: Of the split, for messages.
        part: None passes.
        num_classes: K.
        feature_dim: D.

    Raises:
        ProbeError: Shapes or labels do not fit, there is no example, or a value is not finite.
    """
    if part is None:
        return
    shape = (len(part.labels), feature_dim)
    if tuple(part.features.shape) != shape or not len(part.labels):
        raise ProbeError(
            f"{name} features have shape {tuple(part.features.shape)}, expected {shape} with at "
            "least one example"
        )
    if part.labels.min() < 0 or part.labels.max() >= num_classes:
        raise ProbeError(
            f"{name} labels run from {int(part.labels.min())} to {int(part.labels.max())}, but "
            f"classes are 0 to {num_classes - 1}"
        )
    broken = int((~part.features.isfinite()).any(dim=1).sum())
    if broken:
        raise ProbeError(
            f"{name} features of {broken} of {len(part.labels)} examples are not finite"
        )


def measure_scaling(features: Tensor, standardize: bool) -> Scaling:
    """Return what centres features, and scales them to unit variance if asked.

    Args:
        features: Of train, shape (N, D).
        standardize: Whether the variance becomes 1; a constant feature becomes 0 in any case.
    """
    exact = features.double()
    mean = exact.mean(0)
    deviation = (exact - mean).square().mean(0).sqrt()
    varies = deviation > _CONSTANT * mean.abs()
    factor = 1 / deviation if standardize else torch.ones_like(deviation)
    factor = torch.where(varies, factor, 0.0)
    return Scaling(mean.to(features.dtype), factor.to(features.dtype))


def _rank(score: tuple[float | None, float | None]) -> tuple[float, float]:
    """Return what is least for the best score; `min` keeps the first, strongest, of equals."""
    accuracy, loss = score
    return -(accuracy or 0.0), math.inf if loss is None else loss


def _notes(points: Sequence[ProbePoint], num_absent: int) -> tuple[str, ...]:
    notes = []
    open_values = [f"{point.l2:g}" for point in points if not point.converged]
    if open_values:
        notes.append(f"probe not converged at l2 = {', '.join(open_values)}")
    if num_absent:
        notes.append(f"{num_absent} classes have no train example: the probe never predicts them")
    return tuple(notes)
