"""How much a value changes from run to run though nothing changed; knows no store and no metric."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

_PRIOR_FREEDOM = 4.0
"""How many degrees of freedom the spread of all cells counts for beside a cell's own."""


_ROUNDING = 1e-12


@dataclass(frozen=True)
class Noise:
    """Standard deviation of one run's value around its level.

    Attributes:
        sigma: On the scale of the values (a fraction, nats, or log units for ratios).
        freedom: Degrees of freedom behind it; infinite for an assumed value.
        assumed: Whether no history exists, so that sigma is a stated assumption.
    """

    sigma: float
    freedom: float
    assumed: bool


def between_run_noise(levels: Sequence[Sequence[float]]) -> Noise | None:
    """Return the spread of values of equal keys around the mean of their level, or None.

    A single run says nothing of its spread: levels with one value count for nothing, and without
    a level of two the answer is None.

    Args:
        levels: Values of equal keys on equal machines, one per run; a list per level, so that a
            step between two levels is not taken for noise.

    Source: pooled standard deviation.
    """
    used = [level for level in levels if len(level) > 1]
    if not used:
        return None
    freedom = sum(len(level) - 1 for level in used)
    squares = sum((value - fmean(level)) ** 2 for level in used for value in level)
    sigma = math.sqrt(squares / freedom)
    largest = max(abs(value) for level in used for value in level)
    # What is left of equal values is the rounding of their mean.
    return Noise(sigma if sigma > _ROUNDING * largest else 0.0, float(freedom), assumed=False)


def pool_noise(
    own: Noise | None, others: Sequence[Noise], *, floor: float, assumed: float
) -> Noise:
    """Return the noise to test with: a cell's own history, steadied by that of all cells.

    A few nights say little of a spread: a cell's own variance is averaged, by degrees of freedom,
    with the variance of all cells of the grid (at least the floor's), which counts for
    four. Tonight's differences take no part, so a change that hits the whole grid cannot pass for
    noise.

    Args:
        own: Of this cell; None without history.
        others: Of every cell with a history on this metric, this one included.
        floor: Least sigma that the grid's history is believed to show.
        assumed: Sigma where nothing is known.

    Source: the moderated variance of Smyth, 2004, "Linear models and empirical Bayes methods",
    with prior degrees of freedom fixed instead of fitted.
    """
    if not others and own is None:
        return Noise(sigma=assumed, freedom=math.inf, assumed=True)
    known = others or [own] if own else others
    total = sum(noise.freedom for noise in known)
    pooled = sum(noise.sigma**2 * noise.freedom for noise in known) / total
    prior = max(pooled, floor**2)
    if own is None:
        return Noise(sigma=math.sqrt(prior), freedom=total, assumed=False)
    freedom = _PRIOR_FREEDOM + own.freedom
    variance = (_PRIOR_FREEDOM * prior + own.freedom * own.sigma**2) / freedom
    return Noise(sigma=math.sqrt(variance), freedom=freedom, assumed=False)
