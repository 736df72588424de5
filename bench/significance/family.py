"""Many tests at once: adjusted p-values, and what so many tests could have found; knows no cell."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from bench.stats import student_quantile


def adjust_holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """Return p-values adjusted so that any at most alpha keeps the family-wise error at alpha.

    Valid however the tests depend on each other.

    Args:
        p_values: One per test, in any order.

    Source: Holm, 1979, "A simple sequentially rejective multiple test procedure".
    """
    raw = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(raw, kind="stable")
    scaled = raw[order] * np.arange(len(raw), 0, -1)
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


def detectable_effect(
    standard_error: float, freedom: float, *, alpha: float, power: float
) -> float:
    """Return the smallest true effect that a two-sided test finds with the given power.

    Args:
        standard_error: Of the estimate.
        freedom: Its degrees of freedom, at least 1; may be infinite.
        alpha: Level that this test had to pass, after any division among tests.
        power: Share of such effects that should be found, in (0, 1).

    Source: the usual normal approximation (Cohen, 1988) with Student's t for the critical value.
    """
    critical = critical_value(alpha, freedom)
    return (critical + NormalDist().inv_cdf(power)) * standard_error


def critical_value(alpha: float, freedom: float) -> float:
    """Return the two-sided critical value at a level; see `detectable_effect`."""
    if math.isinf(freedom):
        return -NormalDist().inv_cdf(alpha / 2)
    return student_quantile(1 - alpha / 2, freedom)


def sample_factor(detectable: float, wanted: float) -> float:
    """Return how many times the data are needed for a wanted effect to be detectable.

    Args:
        detectable: What is detectable now.
        wanted: What should be, above 0.

    Source: standard errors fall with the square root of the number of independent values.
    """
    return (detectable / wanted) ** 2
