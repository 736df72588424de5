"""How much an example of each class counts in a loss; knows labels alone."""

from __future__ import annotations

import numpy as np


def balanced_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return a weight per class under which all classes that occur count the same.

    A class of n_c of N examples, one of k that occur, gets N / (k * n_c), so that the mean weight
    of an example is 1. A class without examples gets 1.

    Args:
        labels: Class indices of train in [0, num_classes), shape (N,).
        num_classes: K.

    Returns:
        Shape (K,), float64.

    Source: scikit-learn's compute_class_weight with ``balanced``, after King & Zeng, 2001.
    """
    counts = np.bincount(labels, minlength=num_classes)
    occurring = np.count_nonzero(counts)
    weights = len(labels) / (occurring * np.maximum(counts, 1))
    return np.where(counts > 0, weights, 1.0)
