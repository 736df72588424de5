"""The one number that turns scores into probabilities; knows no feature and no strategy.

Scores that only rank classes (similarities, distances, least squares) say nothing of how sure they
are. A scale on all of them, fitted on examples that the scores were not made from, keeps every
ranking and makes the probabilities mean what they say.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOWEST, HIGHEST = 1e-3, 1e3
"""Bounds of a scale, in units of one over the spread of the scores."""

_MAX_ELEMENTS = 1 << 22
_MAX_STEPS = 40
_PRECISE = 1e-4


def fit_scale(scores: Tensor, labels: Tensor) -> float:
    """Return the positive factor on scores under which their cross-entropy is least.

    One example in N + 1 counts as having any label, so that scores which are never wrong here do
    not become certain. The cross-entropy is convex in the factor. Of very many scores, examples at
    even distances stand for all.

    Args:
        scores: Finite, of examples that did not make them, shape (N, K).
        labels: Class indices in [0, K), int64, shape (N,).

    Source: Guo et al., 2017, section 4.2 (temperature scaling; the factor is 1 / temperature).
    """
    step = -(-scores.numel() // _MAX_ELEMENTS)
    exact, true = scores[::step].double(), labels[::step]
    centred = exact - exact.mean(1, keepdim=True)
    spread = float(centred.square().mean().sqrt())
    if spread == 0:
        return 1.0
    centred /= spread
    chance = 1 / (len(true) + 1)
    wanted = (1 - chance) * centred.gather(1, true[:, None])[:, 0]
    return _least(centred, float(wanted.mean())) / spread


def _least(centred: Tensor, wanted: float) -> float:
    """Return where the slope of the cross-entropy is zero: Newton's method within a bracket."""
    low, high, factor = LOWEST, HIGHEST, 1.0
    for _ in range(_MAX_STEPS):
        probability = torch.softmax(factor * centred, dim=1)
        mean = (probability * centred).sum(1)
        slope = float(mean.mean()) - wanted
        curvature = float(((probability * centred.square()).sum(1) - mean.square()).mean())
        low, high = (factor, high) if slope < 0 else (low, factor)
        guess = factor - slope / curvature if curvature > 0 else low
        if not low < guess < high:
            guess = (low * high) ** 0.5
        if abs(guess - factor) <= _PRECISE * factor:
            return guess
        factor = guess
    return factor
