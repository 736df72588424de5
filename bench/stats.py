"""Intervals of accuracies in plain Python; knows no record, no table and no array library."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist, fmean, variance

from bench.errors import UsageError

_NEARLY_NORMAL = 1e5
_MOST_STEPS = 200


@dataclass(frozen=True)
class Interval:
    """Both ends of an interval of a fraction, in [0, 1]."""

    low: float
    high: float


def accuracy_interval(
    correct: Sequence[int], totals: Sequence[int], level: float = 0.95
) -> Interval:
    """Return an interval for the accuracy of a cell's configuration, from one or more seeds.

    One seed: Wilson's score interval. It covers which examples happened to be in the test split,
    and says nothing of the seed.

    Several seeds: accuracies p_1 … p_S on the same n test examples. Their mean has two sources of
    error. Which examples are in the test split: the seeds share it, so more seeds do not reduce it;
    bounded by v_e = p(1 - p) / n, that of a single seed. Which seeds were drawn: v_s = s^2 / S,
    with s^2 the variance between seeds. The interval is Wilson's on the mean accuracy, with n
    replaced by the size at which the binomial variance equals v_e + v_s, and the normal quantile
    by Student's t with Satterthwaite's degrees of freedom (S - 1) ((v_e + v_s) / v_s)^2, so that
    two seeds that differ a lot give the wide interval they deserve. With s = 0 it is Wilson's.
    s^2 holds example noise too where models disagree, so the interval errs on the wide side.

    Args:
        correct: Correctly classified test examples per seed.
        totals: Test examples per seed, each at least 1.
        level: Share of intervals that should cover the truth, in (0, 1).

    Raises:
        UsageError: No seeds, a count out of range, or lengths that differ.

    Source: Wilson, 1927; Satterthwaite, 1946; the split of the two sources as in Bouthillier et
    al., 2021, "Accounting for variance in machine learning benchmarks".
    """
    _check(correct, totals, level)
    accuracies = [c / t for c, t in zip(correct, totals, strict=True)]
    mean, size = fmean(accuracies), fmean(totals)
    quantile = NormalDist().inv_cdf(0.5 + level / 2)
    between = variance(accuracies) / len(accuracies) if len(accuracies) > 1 else 0.0
    if between == 0.0:
        return wilson_interval(mean, size, quantile)
    # At p = 0 or 1 there is no spread between seeds either, so p (1 - p) > 0 here.
    within = mean * (1 - mean) / size
    total = within + between
    freedom = (len(accuracies) - 1) * (total / between) ** 2
    return wilson_interval(
        mean, mean * (1 - mean) / total, student_quantile(0.5 + level / 2, freedom)
    )


@lru_cache(maxsize=10_000)
def student_quantile(probability: float, freedom: float) -> float:
    """Return the quantile of Student's t distribution, to about 1e-9 relative.

    Args:
        probability: In [0.5, 1).
        freedom: Degrees of freedom, at least 1, not necessarily whole.

    Source: the distribution function through the regularised incomplete beta function (continued
    fraction, Abramowitz & Stegun 26.5.8), inverted by Newton's method, and for many degrees of
    freedom the first term of the expansion about the normal (26.7.5); scipy costs a second to
    import.
    """
    normal = NormalDist().inv_cdf(probability)
    if freedom > _NEARLY_NORMAL:
        return normal + (normal**3 + normal) / (4 * freedom)
    # The normal's quantile is the smaller one, and the function is concave above 0: Newton's
    # method rises to the root and never passes it.
    value = normal
    for _ in range(_MOST_STEPS):
        step = (probability - _student_cdf(value, freedom)) / _student_density(value, freedom)
        value += step
        if step <= 1e-12 * value:
            break
    return value


def student_two_sided(value: float, freedom: float) -> float:
    """Return P(|T| >= |value|) for Student's t, exact in relative terms far into the tail.

    Args:
        value: The statistic; infinite gives 0.
        freedom: Degrees of freedom, at least 1; infinite gives the normal distribution.

    Source: Abramowitz & Stegun 26.5.27, I_x(f / 2, 1 / 2) with x = f / (f + t^2): one minus the
    distribution function would leave nothing of a tail below 1e-16.
    """
    if math.isinf(value):
        return 0.0
    if freedom > _NEARLY_NORMAL:
        return math.erfc(abs(value) / math.sqrt(2))
    return _incomplete_beta(freedom / (freedom + value * value), freedom / 2, 0.5)


def _check(correct: Sequence[int], totals: Sequence[int], level: float) -> None:
    if len(correct) != len(totals) or not totals:
        raise UsageError(
            f"an accuracy interval needs one count per seed: got {len(correct)} of correct "
            f"examples and {len(totals)} of all"
        )
    for right, total in zip(correct, totals, strict=True):
        if not 0 <= right <= total or total < 1:
            raise UsageError(f"{right} correct of {total} examples is not a fraction in [0, 1]")
    if not 0 < level < 1:
        raise UsageError(f"the level of an interval lies between 0 and 1, got {level}")


def wilson_interval(fraction: float, size: float, quantile: float) -> Interval:
    """Return Wilson's score interval of a fraction; it has a width at 0 and at 1 too.

    Args:
        fraction: In [0, 1].
        size: Independent examples that would give its variance, above 0.
        quantile: Two-sided critical value, e.g. 1.96 for 95%.

    Source: Wilson, 1927.
    """
    square = quantile**2 / size
    centre = (fraction + square / 2) / (1 + square)
    half = math.sqrt(fraction * (1 - fraction) * square + square**2 / 4) / (1 + square)
    return Interval(low=max(0.0, centre - half), high=min(1.0, centre + half))


def _student_cdf(value: float, freedom: float) -> float:
    """Return P(T <= value) for value >= 0."""
    share = value * value / (freedom + value * value)
    return 0.5 + 0.5 * _incomplete_beta(share, 0.5, freedom / 2)


def _student_density(value: float, freedom: float) -> float:
    log_front = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    log_front -= 0.5 * math.log(freedom * math.pi)
    return math.exp(log_front - (freedom + 1) / 2 * math.log1p(value * value / freedom))


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b), for x in [0, 1]."""
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    if x > (a + 1) / (a + b + 2):
        return 1.0 - _incomplete_beta(1.0 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    log_front += a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) * _beta_fraction(x, a, b) / a


def _beta_fraction(x: float, a: float, b: float) -> float:
    """Return the continued fraction of the incomplete beta function, by Lentz's method."""
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1)
    d = 1.0 / d
    value = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d, c = 1.0 / (1.0 + even * d), 1.0 + even / c
        value *= c * d
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d, c = 1.0 / (1.0 + odd * d), 1.0 + odd / c
        value *= c * d
        if abs(c * d - 1.0) < 1e-14:
            break
    return value
