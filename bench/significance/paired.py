"""Two models on the same test examples, over one seed or several; knows no metric by name.

Seeds share their test examples, so their differences on one example depend on each other and the
seeds are not so many independent test sets. Two sources of error are kept apart. Which examples are
in the test split: resampled, or flipped in sign, for all seeds together. How a run fell out: with
several seeds their differences spread more than such examples explain, and that excess is added, as
far as the cell's own few seeds tell it and as the grid does: by how much runs spread beyond their
examples, and how far a run of a seed differs from another run of it, as a share of how far seeds
differ. With one seed only a history of equal keys can tell.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from bench.significance.family import critical_value
from bench.significance.noise import Noise
from bench.significance.resampling import Floats
from bench.significance.result import Tested
from bench.stats import student_two_sided

_PRIOR_FREEDOM = 4.0
"""Degrees of freedom that the grid counts for beside a cell's own."""

_UNRELATED_FREEDOM = 8
"""Degrees of freedom for which the assumption that runs are unrelated counts, where it is made."""

_MOST_INFLATION = 8.0
"""A cell's own spread counts up to so many times what the grid lets expect, and a candidate's up to
so many times the baseline's: seeds that spread more than that are themselves a change, and must not
excuse it."""


@dataclass(frozen=True)
class PairedEffect:
    """A difference over seeds on shared examples, with its error's parts.

    Attributes:
        estimate: Mean over seeds of candidate minus baseline.
        num_examples: N.
        num_seeds: S.
        examples_variance: Of the estimate, from which examples are in the test split.
        seed_variance: Of one seed's difference around the mean of all, as far as independent
            examples explain it; 0 with one seed.
        inflation: Observed variance between seeds over `seed_variance`; None with one seed, or
            where no example tells seeds apart.
        spread: Variance between the seeds of the baseline, and between those of the candidate,
            added up; 0 with one seed. Two unrelated runs of each seed would differ by as much.
        low_arm: From the estimate down to the lower quantile of the replicates.
        high_arm: From the estimate up to the upper quantile.
        exact_p: P-value of an exact test on the examples, where there is one.
    """

    estimate: float
    num_examples: int
    num_seeds: int
    examples_variance: float
    seed_variance: float
    inflation: float | None
    low_arm: float
    high_arm: float
    exact_p: float | None = None
    spread: float = 0.0

    @property
    def observed(self) -> float:
        """Variance of one seed's difference around the mean of all, as observed."""
        return (self.inflation or 0.0) * self.seed_variance


@dataclass(frozen=True)
class GridSpread:
    """How runs spread, over a whole grid.

    Attributes:
        inflation: By how much beyond independent examples; at least 1.
        independence: How far two runs of a seed differ as a share of how far seeds differ, in
            [0, 1]: 0 where runs are known to repeat, 1 where seeds pair nothing.
        freedom: Degrees of freedom behind it, at most what it counts for.
    """

    inflation: float = 1.0
    independence: float = 0.0
    freedom: float = _PRIOR_FREEDOM


def sign_flip_p(baseline_correct: NDArray[np.bool_], candidate_correct: NDArray[np.bool_]) -> float:
    """Return the exact two-sided p-value that two models are equally often right.

    Per example, the number of seeds in which only the candidate is right less that in which only
    the baseline is. Were the two exchangeable on each example, its sign could as well be the
    other one, for all seeds together; the sum over examples is compared with all such flips. That
    needs no independence between seeds. With one seed it is McNemar's exact test.

    Args:
        baseline_correct: Whether each example is right, shape (S, N).
        candidate_correct: Likewise, of the same examples.

    Source: McNemar, 1947, in its exact binomial form; the randomisation test of Fisher, 1935, with
    its distribution by convolution instead of by drawing.
    """
    gained = (candidate_correct.astype(np.int64) - baseline_correct.astype(np.int64)).sum(axis=0)
    sizes = np.bincount(np.abs(gained), minlength=2)
    total = int(np.arange(len(sizes)) @ sizes)
    # A sum of +-k is total - 2 T, where T adds up the sizes whose sign is minus: whole, from 0 on.
    distribution = np.ones(1)
    for size, count in enumerate(sizes):
        if size and count:
            distribution = np.convolve(distribution, _spread(_fair_coins(int(count)), size))
    tail = (total - abs(int(gained.sum()))) // 2
    return min(1.0, 2.0 * float(distribution[: tail + 1].sum()))


def _fair_coins(count: int) -> Floats:
    """Return the probabilities of 0 … count heads."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    return np.asarray(np.exp(logs[-1] - logs - logs[::-1] - count * math.log(2)))


def _spread(probabilities: Floats, step: int) -> Floats:
    spread = np.zeros((len(probabilities) - 1) * step + 1)
    spread[::step] = probabilities
    return spread


def paired_effect(
    sides: tuple[Floats, Floats],
    replicates: Floats,
    *,
    num_examples: int,
    exact_p: float | None = None,
    level: float = 0.95,
) -> PairedEffect:
    """Return the mean difference over seeds and the parts of its error.

    Args:
        sides: Baseline's and candidate's value per seed, each of shape (S,).
        replicates: Candidate minus baseline in every bootstrap sample of the examples, drawn for
            all seeds together, shape (S, B).
        num_examples: N.
        exact_p: See `PairedEffect`.
        level: Of the quantiles, in (0, 1).

    Source: the paired bootstrap, Efron & Tibshirani, 1993, ch. 8; percentile quantiles.
    """
    before, after = sides
    differences = after - before
    num_seeds = len(differences)
    estimate = float(differences.mean())
    mean = replicates.mean(axis=0)
    low, high = np.quantile(mean, [0.5 - level / 2, 0.5 + level / 2])
    seed_variance, inflation, between = 0.0, None, 0.0
    if num_seeds > 1:
        own = float(before.var(ddof=1))
        between = own + min(float(after.var(ddof=1)), _MOST_INFLATION * own)
        spread = (replicates - mean).var(axis=1, ddof=1).sum()
        seed_variance = float(spread) / (num_seeds - 1)
        if seed_variance > 0:
            inflation = float(differences.var(ddof=1)) / seed_variance
    return PairedEffect(
        estimate=estimate,
        num_examples=num_examples,
        num_seeds=num_seeds,
        examples_variance=float(mean.var(ddof=1)),
        seed_variance=seed_variance,
        inflation=inflation,
        low_arm=max(0.0, estimate - float(low)),
        high_arm=max(0.0, float(high) - estimate),
        exact_p=exact_p,
        spread=between,
    )


def pool_spread(effects: Iterable[PairedEffect], *, repeats: bool = True) -> GridSpread:
    """Return how runs spread over a whole grid, or over cells that are alike.

    The inflation is the median over cells, so that a few cells that changed in one seed do not hide
    the others. The independence is the mean share: it is 1 on average where runs are unrelated, as
    a covariance is as often negative as positive, and no single cell weighs much.

    Args:
        effects: Of one metric; those that tell nothing are left out.
        repeats: Whether a run of a seed is known to repeat exactly where nothing changed. Else runs
            count as unrelated until the grid shows that they are not.

    Source: quasi-likelihood's dispersion (Wedderburn, 1974); the median of chi-square over its
    degrees of freedom by Wilson & Hilferty, 1931.
    """
    several = [effect for effect in effects if effect.num_seeds > 1]
    ratios = [
        effect.inflation / (1 - 2 / (9 * (effect.num_seeds - 1))) ** 3
        for effect in several
        if effect.inflation is not None
    ]
    return GridSpread(
        inflation=max(1.0, median(ratios)) if ratios else 1.0,
        independence=0.0 if repeats else _independence(several),
        freedom=min(_PRIOR_FREEDOM, float(sum(effect.num_seeds - 1 for effect in several))),
    )


def _independence(effects: Sequence[PairedEffect]) -> float:
    """Return `GridSpread.independence`: 1 where no cell tells, less as cells show that it is."""
    shares = [
        (effect.observed / effect.spread, effect.num_seeds - 1)
        for effect in effects
        if effect.spread > 0
    ]
    shares.append((1.0, _UNRELATED_FREEDOM))
    total = sum(share * freedom for share, freedom in shares)
    return min(1.0, total / sum(freedom for _, freedom in shares))


def paired_test(
    effect: PairedEffect,
    *,
    grid: GridSpread | None = None,
    noise: Noise | None = None,
    level: float = 0.95,
) -> Tested:
    """Return whether a paired difference is more than chance.

    The variance is that of the examples, and what runs add: by the spread of the differences of
    seeds, or by the history of equal keys where that is more (its spread holds both parts already).
    The p-value is Student's for the estimate over its standard error: counting bootstrap samples
    ends at one in their number, which no test among thousands could pass. An exact p-value counts
    alone where runs add nothing, and otherwise the larger of the two.

    Args:
        effect: What was measured.
        grid: `pool_spread` of cells like this one, averaged here with the cell's own; None is a
            grid whose runs add nothing.
        noise: Spread of a run's value (mean over seeds) from history.
        level: Of the interval, equal to that of the effect.

    Source: Satterthwaite, 1946, for the degrees of freedom; the moderation as in Smyth, 2004.
    """
    extra, extra_freedom = _run_variance(effect, grid or GridSpread(), noise)
    variance = effect.examples_variance + extra
    error = math.sqrt(variance)
    freedom = _satterthwaite(effect, extra, extra_freedom)
    p = student_two_sided(_over(effect.estimate, error), freedom)
    if effect.exact_p is not None:
        p = effect.exact_p if extra == 0 else max(p, effect.exact_p)
    arm = critical_value(1 - level, freedom) * math.sqrt(extra)
    return Tested(
        estimate=effect.estimate,
        low=effect.estimate - math.hypot(effect.low_arm, arm),
        high=effect.estimate + math.hypot(effect.high_arm, arm),
        p=p,
        standard_error=error,
        freedom=freedom,
        sampling_share=effect.examples_variance / variance if variance else 1.0,
    )


def _run_variance(
    effect: PairedEffect, grid: GridSpread, noise: Noise | None
) -> tuple[float, float]:
    """Return what runs add to the variance of the estimate, and its degrees of freedom."""
    extra, freedom = 0.0, math.inf
    if effect.inflation is not None:
        own = effect.num_seeds - 1
        related = grid.inflation * effect.seed_variance
        unrelated = grid.independence * effect.spread
        expected = max(related, unrelated)
        capped = min(effect.observed, _MOST_INFLATION * expected)
        # The spread of two times so many seeds is all that is known of unrelated runs.
        prior = grid.freedom if related >= unrelated else min(grid.freedom, float(own))
        freedom = prior + own
        variance = (prior * expected + own * capped) / freedom
        if unrelated > related:
            variance = max(variance, expected)
        extra = max(0.0, variance - effect.seed_variance) / effect.num_seeds
    if noise is not None and 2 * noise.sigma**2 > effect.examples_variance + extra:
        return 2 * noise.sigma**2 - effect.examples_variance, noise.freedom
    return extra, freedom


def _satterthwaite(effect: PairedEffect, extra: float, extra_freedom: float) -> float:
    sampled = effect.examples_variance
    if sampled + extra == 0:
        return math.inf
    spread = sampled**2 / max(1, effect.num_examples - 1) + extra**2 / extra_freedom
    return (sampled + extra) ** 2 / spread if spread else math.inf


def _over(estimate: float, error: float) -> float:
    if estimate == 0:
        return 0.0
    return estimate / error if error > 0 else math.inf
