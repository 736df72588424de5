"""Least squares on class labels with an L2 penalty, every strength from one decomposition.

It knows features and labels, no split and no choice among strengths.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.errors import ProbeError
from bench.strategies.head import make_head
from bench.strategies.probe import Scaling, measure_scaling


@dataclass(frozen=True)
class RidgePath:
    """The minimisers for all strengths, in the basis that makes each a division.

    Shapes: N examples, D features, R = min(N, D) directions, K classes; float64.

    Attributes:
        scaling: What was done to the features.
        directions: Eigenvectors in the space of features, orthonormal, shape (D, R).
        examples: Likewise in the space of examples, shape (N, R).
        energy: Eigenvalues of the Gram matrix, at least 0, shape (R,).
        response: Targets along each direction, shape (R, K).
        offset: Mean target, which is the bias on centred features, shape (K,).
        targets: +1 for the class and -1 for all others, shape (N, K).
    """

    scaling: Scaling
    directions: Tensor
    examples: Tensor
    energy: Tensor
    response: Tensor
    offset: Tensor
    targets: Tensor

    def project(self, features: Tensor) -> Tensor:
        """Return features along the directions, shape (M, R): done once for all strengths."""
        return self.scaling.apply(features.double()) @ self.directions

    def scores(self, projected: Tensor, l2: float) -> Tensor:
        """Return least-squares scores, shape (M, K)."""
        return projected @ self._solution(l2) + self.offset

    def held_out(self, l2: float) -> Tensor:
        """Return scores of train examples, each by the fit to all others, shape (N, K).

        Exact but for the scaling, which is measured with the example.

        Source: Allen, 1974 (PRESS): the residual over one minus the leverage.
        """
        shrunk = self.energy / (self.energy + l2)
        fitted = self._fitted(l2) + self.offset
        leverage = (self.examples.square() @ shrunk + 1 / len(self.examples)).clamp_max(1 - 1e-9)
        return self.targets - (self.targets - fitted) / (1 - leverage)[:, None]

    def spread(self, l2: float) -> float:
        """Return the standard deviation of train's own scores within an example, less the bias."""
        fitted = self._fitted(l2)
        return float((fitted - fitted.mean(1, keepdim=True)).square().mean().sqrt())

    def make_head(self, l2: float, scale: float) -> nn.Linear:
        """Return the head on features as they are, scores times the scale, float32."""
        weight = scale * (self.directions @ self._solution(l2)).T * self.scaling.factor
        bias = scale * self.offset - weight @ self.scaling.mean
        return make_head(weight.shape[1], len(weight), (weight.float(), bias.float()))

    def _fitted(self, l2: float) -> Tensor:
        shrunk = self.energy / (self.energy + l2)
        return self.examples @ (shrunk[:, None] * (self.examples.T @ self.targets))

    def _solution(self, l2: float) -> Tensor:
        return self.response / (self.energy + l2)[:, None]


def fit_ridge(
    features: Tensor, labels: Tensor, num_classes: int, *, standardize: bool = False
) -> RidgePath:
    """Return the minimisers of sum of squared errors + l2 * ||W||^2 for every l2 > 0.

    Targets are +1 and -1 and the bias is not penalised, as in scikit-learn's RidgeClassifier. The
    eigenvectors are those of the smaller Gram matrix, features' or examples'.

    Args:
        features: Of train, shape (N, D).
        labels: Class indices in [0, K), shape (N,).
        num_classes: K; a class without examples has scores of -1.
        standardize: Scale each feature to unit variance over train.

    Raises:
        ProbeError: Fewer than two classes have examples.

    Source: Hoerl & Kennard, 1970; Hastie et al., 2009, section 3.4.1 (by the decomposition).
    """
    if len(torch.unique(labels)) < 2:
        raise ProbeError("a ridge probe needs examples of two classes or more in train, got 1")
    measured = measure_scaling(features.double(), standardize)
    scaled = measured.apply(features.double())
    targets = scaled.new_full((len(labels), num_classes), -1.0)
    targets[torch.arange(len(labels), device=labels.device), labels] = 1.0
    offset = targets.mean(0)
    energy, directions, examples = _decompose(scaled)
    response = energy.sqrt()[:, None] * (examples.T @ (targets - offset))
    return RidgePath(measured, directions, examples, energy, response, offset, targets)


def _decompose(scaled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return squared singular values (R,), right (D, R) and left (N, R) singular vectors.

    Directions without energy are left out: a sum of squares cannot tell them from zero.
    """
    wide = scaled.shape[0] <= scaled.shape[1]
    gram = scaled @ scaled.T if wide else scaled.T @ scaled
    energy, basis = torch.linalg.eigh(gram)
    kept = energy > energy[-1] * torch.finfo(energy.dtype).eps * max(scaled.shape)
    energy, basis = energy[kept], basis[:, kept]
    other = (scaled.T @ basis if wide else scaled @ basis) / energy.sqrt()
    return (energy, other, basis) if wide else (energy, basis, other)
