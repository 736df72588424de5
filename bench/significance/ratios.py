"""The ratio of two costs from raw repeats of one or more processes; knows no unit and no metric."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.errors import UsageError
from bench.significance.family import critical_value
from bench.significance.noise import Noise
from bench.significance.resampling import Floats
from bench.significance.result import Tested
from bench.stats import student_two_sided

Runs = Sequence[Sequence[float]]
"""Per process its repeats, in base units; each above 0."""


@dataclass(frozen=True)
class RatioEffect:
    """The log of the ratio of medians, candidate over baseline, and its error within processes.

    Attributes:
        estimate: Natural log; of several processes, the mean of their log medians counts.
        variance: Of the estimate, from the repeats alone.
        low_arm: From the estimate down to the lower quantile of the replicates.
        high_arm: From the estimate up to the upper quantile.
        num_baseline: Processes of the baseline.
        num_candidate: Processes of the candidate.
        num_repeats: Fewest repeats of a process.
    """

    estimate: float
    variance: float
    low_arm: float
    high_arm: float
    num_baseline: int
    num_candidate: int
    num_repeats: int


def ratio_effect(
    baseline: Runs,
    candidate: Runs,
    *,
    num_replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> RatioEffect:
    """Return the ratio of medians with the bootstrap spread that the repeats explain.

    Args:
        baseline: Repeats per process, each value above 0.
        candidate: Likewise.
        num_replicates: Bootstrap samples.
        seed: Of their generator.
        level: Of the quantiles, in (0, 1).

    Raises:
        UsageError: No process, a process without repeats, or a value that is not above 0.

    Source: the bootstrap of a median needs no drawing of samples: the order statistics of uniform
    variables say which repeats it falls on (Maritz & Jarrett, 1978; Efron, 1979).
    """
    _check(baseline, candidate)
    rng = np.random.default_rng(seed)
    replicates = _log_medians(candidate, num_replicates, rng)
    replicates -= _log_medians(baseline, num_replicates, rng)
    estimate = _log_median(candidate) - _log_median(baseline)
    low, high = np.quantile(replicates, [0.5 - level / 2, 0.5 + level / 2])
    return RatioEffect(
        estimate=estimate,
        variance=float(replicates.var(ddof=1)),
        low_arm=max(0.0, estimate - float(low)),
        high_arm=max(0.0, float(high) - estimate),
        num_baseline=len(baseline),
        num_candidate=len(candidate),
        num_repeats=min(len(run) for run in (*baseline, *candidate)),
    )


def _check(baseline: Runs, candidate: Runs) -> None:
    for name, runs in (("baseline", baseline), ("candidate", candidate)):
        if not runs or not all(len(run) for run in runs):
            raise UsageError(f"a ratio needs a repeat of every process: the {name} has none")
        wrong = [value for run in runs for value in run if not 0 < value < math.inf]
        if wrong:
            raise UsageError(f"a ratio needs values above 0: the {name} has {wrong[0]}")


def _log_median(runs: Runs) -> float:
    return float(np.mean([math.log(float(np.median(run))) for run in runs]))


def _log_medians(runs: Runs, num_replicates: int, rng: np.random.Generator) -> Floats:
    """Return the mean log median of the processes in every bootstrap sample, shape (B,)."""
    total = np.zeros(num_replicates)
    for run in runs:
        total += np.log(_medians(np.sort(np.asarray(run, dtype=np.float64)), num_replicates, rng))
    return total / len(runs)


def _medians(ranked: Floats, num_replicates: int, rng: np.random.Generator) -> Floats:
    """Return the median of every bootstrap sample of sorted values, shape (B,).

    A sample with replacement is R uniform variables, each naming the value at that share of the
    sorted ones; so its median is the value named by their median, which is Beta distributed.
    """
    count = len(ranked)
    half = (count + 1) // 2
    lower = rng.beta(half, count - half + 1, num_replicates)
    named = ranked[_index(lower, count)]
    if count % 2:
        return np.asarray(named)
    # The next order statistic is the least of the others above: so far on the way to 1.
    upper = lower + (1 - lower) * rng.beta(1, half, num_replicates)
    return np.asarray((named + ranked[_index(upper, count)]) / 2)


def _index(shares: Floats, count: int) -> np.ndarray:
    return np.minimum((shares * count).astype(np.int64), count - 1)


def ratio_test(effect: RatioEffect, noise: Noise, level: float = 0.95) -> Tested:
    """Return whether a ratio is more than chance, on the log scale.

    Repeats of one run do not show by how much runs differ, so that noise counts once per run of
    each side. Where it is assumed, the variance of the repeats is added to it. A history has that
    part in it already, so the larger of the two counts. The p-value is Student's for the estimate
    over its standard error, see `paired_test`; the interval's arms, those of the bootstrap and of
    the noise, are joined likewise.

    Args:
        effect: What was measured.
        noise: Spread of a run's log median, from history or assumed.
        level: Of the interval, equal to that of the effect.

    Source: Kalibera & Jones, 2013, "Rigorous benchmarking in reasonable time", on the levels of
    variation; Satterthwaite, 1946, for the degrees of freedom.
    """
    between = noise.sigma**2 * (1 / effect.num_baseline + 1 / effect.num_candidate)
    within = effect.variance
    join = math.hypot if noise.assumed else max
    error = join(math.sqrt(within), math.sqrt(between))
    if noise.assumed:
        freedom = _freedom(effect, between, noise.freedom)
    else:
        freedom = noise.freedom if between >= within else float(max(1, effect.num_repeats - 1))
    arm = critical_value(1 - level, freedom) * math.sqrt(between)
    statistic = effect.estimate / error if error > 0 else math.inf
    return Tested(
        estimate=effect.estimate,
        low=effect.estimate - join(effect.low_arm, arm),
        high=effect.estimate + join(effect.high_arm, arm),
        p=student_two_sided(statistic if effect.estimate else 0.0, freedom),
        standard_error=error,
        freedom=freedom,
        sampling_share=within / error**2 if error else 1.0,
    )


def _freedom(effect: RatioEffect, between: float, freedom: float) -> float:
    if effect.variance + between == 0:
        return math.inf
    repeats = max(1, effect.num_repeats - 1)
    spread = effect.variance**2 / repeats + between**2 / freedom
    return (effect.variance + between) ** 2 / spread if spread else math.inf
