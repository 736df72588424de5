"""Class means of features as a classifier, with leave-one-out scores; knows no split, no grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.strategies.head import make_head

Metric = Literal["cosine", "euclidean"]

_BELOW_ALL = 10.0


@dataclass(frozen=True)
class Centroids:
    """Class means of train features, as scores: the nearest mean has the highest.

    Cosine scores are cosines. Euclidean ones are half the squared distances, negative, in units of
    the mean squared distance between two class means, so that scores of any features are alike.

    Attributes:
        metric: Which.
        means: Less `origin`, float64, shape (K, D); zero for a class without train examples.
        counts: Train examples per class, shape (K,).
        origin: Mean of the class means for euclidean, which keeps small distances exact; zero for
            cosine, shape (D,).
        unit: Mean squared distance between two class means; 1 for cosine.
    """

    metric: Metric
    means: Tensor
    counts: Tensor
    origin: Tensor
    unit: float

    def scores(self, features: Tensor) -> Tensor:
        """Return scores of any examples, float64, shape (N, K), features of shape (N, D)."""
        return self._below_all(self._compare(features.double() - self.origin))

    def held_out(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return scores of train examples, each without its own part in its class's mean.

        Args:
            features: Of train, shape (N, D).
            labels: Likewise, shape (N,); each class has two examples or more.
        """
        exact = features.double() - self.origin
        scores = self._compare(exact)
        number = self.counts[labels].double()
        own = (number[:, None] * self.means[labels] - exact) / (number[:, None] - 1)
        if self.metric == "cosine":
            without = F.cosine_similarity(exact, own, dim=1)
        else:
            without = -(exact - own).square().sum(1) / (2 * self.unit)
        return self._below_all(scores.scatter(1, labels[:, None], without[:, None]))

    def make_head(self, scale: float, features: Tensor) -> nn.Module:
        """Return the head, features -> scores times the scale up to a term per example, float32.

        Args:
            scale: Of the logits.
            features: Of train: a class without examples stays below all their logits, (N, D).
        """
        absent = self.counts == 0
        if self.metric == "cosine":
            return CosineHead(F.normalize(self.means, dim=1).float(), absent, scale)
        weight = self.means * (scale / self.unit)
        bias = -(weight * (self.means / 2 + self.origin)).sum(1)
        lowest = float((features.double() @ weight.T + bias).min())
        bias = torch.where(absent, lowest - _BELOW_ALL * scale, bias)
        return make_head(weight.shape[1], len(weight), (weight.float(), bias.float()))

    def _compare(self, exact: Tensor) -> Tensor:
        if self.metric == "cosine":
            return F.normalize(exact, dim=1) @ F.normalize(self.means, dim=1).T
        square = exact.square().sum(1, keepdim=True) + self.means.square().sum(1)
        return (exact @ self.means.T - square / 2) / self.unit

    def _below_all(self, scores: Tensor) -> Tensor:
        return scores.masked_fill(self.counts == 0, float(scores.min()) - _BELOW_ALL)


def measure_centroids(
    features: Tensor, labels: Tensor, num_classes: int, metric: Metric
) -> Centroids:
    """Return the class means of train.

    Args:
        features: Of train, shape (N, D).
        labels: Class indices in [0, K), shape (N,).
        num_classes: K; a class without examples is never predicted.
        metric: What nearest means.

    Source: Snell et al., 2017, section 2 (prototypes).
    """
    counts = torch.bincount(labels, minlength=num_classes)
    exact = features.double()
    means = exact.new_zeros((num_classes, exact.shape[1])).index_add_(0, labels, exact)
    means /= counts.clamp_min(1)[:, None]
    present = counts > 0
    origin = means.new_zeros(means.shape[1])
    unit = 1.0
    if metric == "euclidean":
        origin = means[present].mean(0)
        means = torch.where(present[:, None], means - origin, 0.0)
        # Over pairs of K points about their mean: 2 K / (K - 1) times the mean squared length.
        number = int(present.sum())
        total = float(means.square().sum())
        unit = 2 * total / (number - 1) if number > 1 and total > 0 else 1.0
    return Centroids(metric, means, counts, origin, unit)


class CosineHead(nn.Module):
    """Features, shape (B, D) -> cosines with class directions times a scale, shape (B, K).

    Args:
        directions: Of unit length, float32, shape (K, D).
        absent: Which classes are never predicted, shape (K,).
        scale: Of the logits.
    """

    def __init__(self, directions: Tensor, absent: Tensor, scale: float) -> None:
        super().__init__()
        self.register_buffer("directions", directions)
        self.register_buffer("offset", absent.float() * -_BELOW_ALL)
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        """Return logits."""
        cosines = F.normalize(features, dim=1) @ self.get_buffer("directions").T
        return self.scale * (cosines + self.get_buffer("offset"))
