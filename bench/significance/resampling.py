"""Bootstrap replicates of means and of macro-F1 from one shared matrix of weights; knows no cell.

Every statistic of every cell with the same test examples is resampled by the same weights, so that
differences are paired by example, and by matrix products, so that a thousand cells take seconds.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Weights = NDArray[np.float32]
Ints = NDArray[np.integer]


def resample_weights(num_examples: int, num_replicates: int, seed: int) -> Weights:
    """Return how often each example is drawn in each bootstrap sample, shape (N, B).

    Every column sums to N. The same arguments give the same matrix.

    Args:
        num_examples: N, at least 1.
        num_replicates: B.
        seed: Of the generator.

    Source: Efron, 1979: samples of size N with replacement, stored as their counts.
    """
    rng = np.random.default_rng(seed)
    counts = np.empty((num_replicates, num_examples), dtype=np.float32)
    for row in counts:
        drawn = rng.integers(0, num_examples, num_examples)
        row[:] = np.bincount(drawn, minlength=num_examples)
    return np.ascontiguousarray(counts.T)


def mean_replicates(values: NDArray[np.floating], weights: Weights) -> Floats:
    """Return the mean of every row of values in every bootstrap sample, shape (C, B).

    Args:
        values: One row per statistic, shape (C, N), in the weights' order of examples.
        weights: From `resample_weights`, shape (N, B).
    """
    centre = values.mean(axis=1, keepdims=True)
    # Single precision rounds what is left after the mean is taken out, so nothing that matters.
    centred = (values - centre).astype(np.float32)
    replicates = np.asarray(centred @ weights, dtype=np.float64) / len(weights)
    return np.asarray(replicates + centre)


def sum_by_class(classes: Ints, weights: Weights, num_classes: int) -> Weights:
    """Return the weight of each class in each bootstrap sample, shape (K, B).

    Args:
        classes: Class per example, in [0, K), shape (M,).
        weights: Of these examples, shape (M, B).
        num_classes: K.
    """
    totals = np.zeros((num_classes, weights.shape[1]), dtype=np.float32)
    if not len(classes):
        return totals
    order = np.argsort(classes, kind="stable")
    ranked = classes[order]
    starts = np.flatnonzero(np.concatenate(([True], ranked[1:] != ranked[:-1])))
    totals[ranked[starts]] = np.add.reduceat(weights[order], starts, axis=0)
    return totals


def macro_f1(labels: Ints, predicted: Ints) -> float:
    """Return the macro-F1 of the examples themselves; see `macro_f1_replicates`."""
    num_classes = 1 + int(max(labels.max(), predicted.max()))
    right = np.bincount(labels[labels == predicted], minlength=num_classes)
    counts = [np.bincount(classes, minlength=num_classes) for classes in (labels, predicted)]
    denominator = counts[0] + counts[1]
    occurs = denominator > 0
    return float(np.mean(2 * right[occurs] / denominator[occurs]))


def macro_f1_replicates(
    labels: Ints, predicted: Ints, weights: Weights, support: Weights
) -> Floats:
    """Return the macro-F1 in every bootstrap sample, shape (B,).

    As `metrics.score_logits` has it: the mean over classes that occur among labels or predictions
    of the sample. Only rows of misclassified examples are added up; what is right follows from
    the support.

    Args:
        labels: True class, in [0, K), shape (N,).
        predicted: Predicted class, in [0, K), shape (N,).
        weights: From `resample_weights`, shape (N, B).
        support: `sum_by_class` of all labels, shape (K, B); the same for every model.
    """
    wrong = np.flatnonzero(labels != predicted)
    rows = weights[wrong]
    missed = sum_by_class(labels[wrong], rows, len(support))
    claimed = sum_by_class(predicted[wrong], rows, len(support))
    # Sums of counts are whole numbers, exact in single precision below 2^24 examples.
    denominator = 2 * support - missed + claimed
    occurs = denominator > 0
    scores = np.divide(
        2 * (support - missed), denominator, out=np.zeros_like(denominator), where=occurs
    )
    return np.asarray(scores.sum(axis=0, dtype=np.float64) / occurs.sum(axis=0))
