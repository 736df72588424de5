"""How much more folds of a cross-validation differ than examples explain; knows no record.

Examples of one fold are judged by one model. Where some models are luckier than others, the
outcomes of a fold go together, and N of them say less than N independent ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class FoldExcess:
    """By what the variance of a mean over pooled folds exceeds that of independent examples.

    Attributes:
        factor: At least 1.
        freedom: Degrees of freedom behind it, at least 1.
    """

    factor: float = 1.0
    freedom: float = 1.0


NO_EXCESS = FoldExcess()
"""Of outcomes that are not of folds."""


def fold_excess(correct: NDArray[np.bool_], sizes: Sequence[int]) -> FoldExcess:
    """Return the excess of pooled folds: the variance between them over that between examples.

    The ratio of mean squares of a one-way analysis of variance, as of clusters. It is 1 on average
    where every model errs like the others; less than 1 is chance, and counts as 1, so that the
    interval errs on the wide side. What it cannot see: the folds' models share most of their train
    examples, so that all of them are lucky together. That part of the variance cannot be estimated
    without bias from one cross-validation.

    Args:
        correct: Whether each example is right with each seed, folds one after the other, (S, N).
        sizes: Examples per fold, N together; fewer than two are no folds.

    Source: the design effect of Kish, 1965; Bengio & Grandvalet, 2004, "No unbiased estimator of
    the variance of k-fold cross-validation", whose omega it takes in and whose gamma it leaves out.
    """
    if len(sizes) < 2:
        return NO_EXCESS
    by_example = correct.mean(axis=0)
    counts = np.asarray(sizes, dtype=np.float64)
    starts = np.cumsum([0, *sizes[:-1]])
    means = np.add.reduceat(by_example, starts) / counts
    total = float(by_example.var())
    between = float((counts * (means - by_example.mean()) ** 2).sum()) / (len(sizes) - 1)
    factor = max(1.0, between / total) if total > 0 else 1.0
    return FoldExcess(factor, float(len(sizes) - 1))
