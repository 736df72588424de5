"""The accuracy of a configuration over seeds and examples, with its interval; knows no record.

Every seed is tested on the same examples, so the outcomes are a table of seeds x examples: which
seeds were drawn and which examples were drawn are two sources of error, and the rest is noise.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from bench.significance.folds import NO_EXCESS, FoldExcess
from bench.stats import Interval, student_quantile, wilson_interval

_PRIOR_EXAMPLES = 4.0
"""Examples on which seeds are taken to agree, beside those seen: about 1.96^2, as many as Wilson's
interval adds. A few errors cannot show how far seeds err on different examples."""


@dataclass(frozen=True)
class Spread:
    """The sums of squares of a table of outcomes, 0 or 1, of seeds x examples.

    Attributes:
        mean: Of all outcomes.
        num_seeds: S.
        num_examples: N.
        seeds: Over seeds, of a seed's mean less the mean.
        examples: Over examples, of an example's mean less the mean.
        noise: Over outcomes, of what these two leave.
        num_telling: Examples that at least one seed has right, or those that at least one has
            wrong, whichever are fewer.
    """

    mean: float
    num_seeds: int
    num_examples: int
    seeds: float
    examples: float
    noise: float
    num_telling: int

    @property
    def bootstrap_variance(self) -> float:
        """Variance of the mean when seeds and examples are both drawn with replacement.

        In closed form what a hierarchical bootstrap tends to with ever more samples. It is not the
        variance of the mean: of S seeds it sees the share (S - 1) / S of their variance, and the
        noise it counts up to three times.

        Source: Owen, 2007, "The pigeonhole bootstrap"; McCullagh, 2000.
        """
        seeds, examples = self.num_seeds, self.num_examples
        noise = self.noise / (seeds * examples) ** 2
        return self.seeds / seeds**2 + self.examples / examples**2 + noise


def outcome_spread(correct: NDArray[np.bool_]) -> Spread:
    """Return the mean of outcomes and how they spread over seeds and over examples.

    Args:
        correct: Whether each example is right with each seed, shape (S, N), both at least 1.
    """
    num_seeds, num_examples = correct.shape
    by_example = correct.sum(axis=0)
    mean = float(by_example.sum()) / correct.size
    seeds = float(((correct.mean(axis=1) - mean) ** 2).sum())
    examples = float(((by_example / num_seeds - mean) ** 2).sum())
    total = correct.size * mean * (1 - mean)
    right, wrong = int((by_example > 0).sum()), int((by_example < num_seeds).sum())
    return Spread(
        mean=mean,
        num_seeds=num_seeds,
        num_examples=num_examples,
        seeds=seeds,
        examples=examples,
        noise=max(0.0, total - num_examples * seeds - num_seeds * examples),
        num_telling=min(right, wrong),
    )


def hierarchical_interval(
    spread: Spread, level: float = 0.95, folds: FoldExcess = NO_EXCESS
) -> Interval:
    """Return an interval for the accuracy over other seeds and other examples of the same kind.

    The hierarchical bootstrap's variance, with what is biased in it put right: between seeds over
    S (S - 1) instead of S^2, and the noise counted once. The examples' part has the normal's
    critical value, the seeds' part Student's with S - 1 degrees of freedom; their average, weighted
    by variance, is Cochran's. The interval is Wilson's, for as many examples as have that variance,
    so that it has a width at 0 and 1 and stays between them. With one seed it is Wilson's own, and
    says nothing of other seeds.

    Where the examples are those of folds, their variance is larger by the folds' excess, which has
    Student's critical value with its own degrees of freedom.

    Args:
        spread: From `outcome_spread`.
        level: Share of intervals that should cover the truth, in (0, 1).
        folds: Of the same outcomes, see `bench.significance.folds`.

    Source: variance components of a crossed table, Searle, Casella & McCulloch, 1992, ch. 4; the
    critical value of Cochran & Cox, 1950, section 4.14; Wilson, 1927.
    """
    normal = NormalDist().inv_cdf(0.5 + level / 2)
    fraction, size = spread.mean, spread.num_examples
    unit = fraction * (1 - fraction)
    by_fold = student_quantile(0.5 + level / 2, folds.freedom) if folds.factor > 1 else normal
    if spread.num_seeds == 1 or unit == 0.0:
        critical = (normal + (folds.factor - 1) * by_fold) / folds.factor
        return wilson_interval(fraction, size / folds.factor, critical)
    own = spread.num_seeds - 1
    noise = spread.noise / (spread.num_seeds * size * own * max(1, size - 1))
    seeds = max(spread.seeds / (spread.num_seeds * own), noise)
    examples = max(_examples_variance(spread) - noise, 0.0)
    excess = examples * (folds.factor - 1)
    # All outcomes independent is the least that a table of this mean can have.
    variance = max(seeds + examples + excess, unit / (spread.num_seeds * size))
    student = student_quantile(0.5 + level / 2, own)
    parts = examples * normal + excess * by_fold + seeds * student
    critical = parts / (examples + excess + seeds)
    return wilson_interval(fraction, unit / variance, critical)


def _examples_variance(spread: Spread) -> float:
    """Return the variance from the examples, noise included, steadied where few of them tell."""
    whole = spread.mean * (1 - spread.mean) / spread.num_examples
    seen = spread.num_telling * spread.examples / spread.num_examples**2
    return (seen + _PRIOR_EXAMPLES * whole) / (spread.num_telling + _PRIOR_EXAMPLES)
