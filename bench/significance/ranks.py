"""Which of many rows of outcomes is truly better than which, and so what rank each may have.

It knows no record and no table: a row is what a configuration got right, seed by seed.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from bench.significance.resampling import Floats
from bench.stats import student_quantile

_SEED = 0
_BLOCK_BYTES = 128
"""A thousand examples at once, so that a thousand rows of ten seeds take 40 MiB of memory."""

_MOST_DRAWS, _FEWEST_DRAWS, _ALL_DRAWS = 1000, 400, 200_000_000
_MOST_PRIOR_FREEDOM = 4
"""Degrees of freedom that the dataset's inflation counts for beside a pair's own: so many, or as
many as the other rows have."""

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Ranks:
    """The ranks that each row may have, from 1.

    Attributes:
        low: One more than the rows that are better, shape (K,).
        high: As many as there are rows, less those that are worse, shape (K,).
    """

    low: NDArray[np.int64]
    high: NDArray[np.int64]


def rank_ends(better: Flags) -> Ranks:
    """Return the confidence set of each rank, from which rows are better than which.

    Args:
        better: Whether row i is significantly better than row j, shape (K, K).

    Source: Mogstad, Romano, Shaikh & Wilhelm, 2024, "Inference for ranks", Review of Economic
    Studies 91(1), section 3.
    """
    return Ranks(low=1 + better.sum(axis=0), high=len(better) - better.sum(axis=1))


def better_rows(outcomes: NDArray[np.uint8], num_examples: int, level: float = 0.95) -> Flags:
    """Return which rows are significantly better than which, shape (K, K).

    Every pair is compared on its differences per seed and example. With one seed that is McNemar's
    test with its continuity correction. The pairs of a row together err with a chance of at most
    one less the level: the critical value is the quantile of the largest of a row's statistics,
    drawn with the correlations that they have, and the largest of these over rows, so that two
    rows agree on which is better. From that follow the ranks of each row with that level, and so
    "this row is the best" and "this row is not" too.

    With several seeds, what they add to the variance is moderated: a pair's own excess over what
    independent examples explain, averaged with the median of all pairs, which counts for up to
    four degrees of freedom. With one seed the comparison is between the trained models at hand.

    Args:
        outcomes: A bit per example, packed by `np.packbits`, shape (K, S, ceil(N / 8)); the same
            seeds and examples in the same order for every row.
        num_examples: N.
        level: Of the confidence sets, in (0, 1).

    Source: Mogstad et al., 2024, whose bootstrap is here one of random signs (Davidson & Flachaire,
    2008, "The wild bootstrap, tamed at last"); the variance under no difference by Durkalski et
    al., 2003, "Analysis of clustered matched-pair data"; the correction by Edwards, 1948.
    """
    if len(outcomes) < 2:
        return np.zeros((len(outcomes), len(outcomes)), dtype=np.bool_)
    sums = _gather(outcomes, num_examples)
    pairs = _pair_moments(sums)
    critical = max(_largest_statistic(sums.draws, pairs.deviation, level), _normal(level))
    difference = np.maximum(np.abs(pairs.difference) - 1 / num_examples, 0.0)
    if sums.num_seeds == 1:
        apart = difference > critical * np.sqrt(pairs.null_variance)
    else:
        apart = difference > _bound_with_seeds(pairs, sums.num_seeds, critical)
    return np.asarray(apart & (pairs.difference > 0))


@dataclass(frozen=True)
class _Sums:
    """Of K rows: right answers per seed (K, S), products of rows (K, K), draws of means (K, B)."""

    num_examples: int
    right: Floats
    products_of_means: Floats
    products: Floats
    draws: NDArray[np.float32]

    @property
    def num_seeds(self) -> int:
        return int(self.right.shape[1])


@dataclass(frozen=True)
class _Pairs:
    """Of row i less row j, shape (K, K) each.

    Attributes:
        difference: Of the mean accuracies.
        deviation: Standard deviation of that over examples drawn with replacement.
        null_variance: The same variance if there were no difference.
        seeds: Variance of the mean from the seeds' spread, noise included; 0 with one seed.
        noise: The part of that which independent examples explain; 0 with one seed.
    """

    difference: Floats
    deviation: Floats
    null_variance: Floats
    seeds: Floats
    noise: Floats


def _gather(outcomes: NDArray[np.uint8], num_examples: int) -> _Sums:
    """Add up what pairs need, a block of examples at a time so that memory stays low."""
    count, num_seeds, width = outcomes.shape
    right = np.bitwise_count(outcomes).sum(axis=2, dtype=np.int64).astype(np.float64)
    means = right.mean(axis=1, keepdims=True) / num_examples
    draws = np.zeros((count, _num_draws(count)), dtype=np.float32)
    of_means, products = np.zeros((count, count)), np.zeros((count, count))
    generator = np.random.default_rng(_SEED)
    for start in range(0, width, _BLOCK_BYTES):
        size = min(8 * _BLOCK_BYTES, num_examples - 8 * start)
        part = np.ascontiguousarray(outcomes[:, :, start : start + _BLOCK_BYTES])
        bits = np.unpackbits(part, axis=2, count=size)
        total = np.zeros((count, size), dtype=np.float32)
        for seed in range(num_seeds):
            one = bits[:, seed, :].astype(np.float32)
            total += one
            # Sums of up to a thousand whole numbers: exact in single precision.
            products += one @ one.T
        of_means += total @ total.T
        signs = _draw_signs(generator, size, draws.shape[1])
        draws += (total / num_seeds - means).astype(np.float32) @ signs
    draws /= num_examples
    return _Sums(num_examples, right, of_means / num_seeds**2, products, draws)


def _draw_signs(generator: np.random.Generator, rows: int, columns: int) -> NDArray[np.float32]:
    """Return 1 and -1 with equal chance, shape (rows, columns): a random bit each."""
    width = -(-columns // 8)
    drawn = np.frombuffer(generator.bytes(rows * width), dtype=np.uint8).reshape(rows, width)
    signs = np.unpackbits(drawn, axis=1, count=columns).astype(np.float32)
    signs *= 2
    signs -= 1
    return signs


def _num_draws(count: int) -> int:
    return int(np.clip(_ALL_DRAWS // count**2, _FEWEST_DRAWS, _MOST_DRAWS))


def _pair_moments(sums: _Sums) -> _Pairs:
    examples, seeds = sums.num_examples, sums.num_seeds
    by_seed = sums.right / examples
    means = by_seed.mean(axis=1)
    difference = means[:, None] - means[None, :]
    squares = _squared_distances(sums.products_of_means)
    spread = np.maximum(squares - examples * difference**2, 0.0)
    over_seeds, noise = np.zeros_like(spread), np.zeros_like(spread)
    if seeds > 1:
        between = np.maximum(_squared_distances(by_seed @ by_seed.T) - seeds * difference**2, 0.0)
        whole = _squared_distances(sums.products) - seeds * examples * difference**2
        left = np.maximum(whole - examples * between - seeds * spread, 0.0)
        over_seeds = between / (seeds * (seeds - 1))
        noise = left / (seeds * examples * (seeds - 1) * max(1, examples - 1))
    return _Pairs(
        difference=difference,
        deviation=np.sqrt(spread) / examples,
        null_variance=squares / examples**2,
        seeds=over_seeds,
        noise=noise,
    )


def _squared_distances(products: Floats) -> Floats:
    """Return |x_i - x_j|^2 from the products x_i x_j."""
    own = np.diag(products)
    return np.maximum(own[:, None] + own[None, :] - 2 * products, 0.0)


def _largest_statistic(draws: NDArray[np.float32], deviation: Floats, level: float) -> float:
    """Return the quantile of a row's largest statistic, for the row where that is highest."""
    scale = np.zeros_like(deviation, dtype=np.float32)
    # Rows without a single different answer have no statistic.
    np.divide(1.0, deviation, out=scale, where=deviation > 0, casting="same_kind")
    highest = 0.0
    buffer = np.empty_like(draws)
    for own, factors in zip(draws, scale, strict=True):
        np.subtract(draws, own, out=buffer)
        np.abs(buffer, out=buffer)
        np.multiply(buffer, factors[:, None], out=buffer)
        highest = max(highest, float(np.quantile(buffer.max(axis=0), level)))
    # Rounding keeps a table the same where sums of floats are taken in another order.
    return round(highest, 3)


def _normal(level: float) -> float:
    return NormalDist().inv_cdf(0.5 + level / 2)


def _bound_with_seeds(pairs: _Pairs, num_seeds: int, critical: float) -> Floats:
    """Return how large a difference must be, where several seeds show what a seed adds."""
    own = num_seeds - 1
    prior = min(_MOST_PRIOR_FREEDOM, own * (len(pairs.seeds) - 2))
    pooled = own * pairs.seeds + prior * _median_inflation(pairs, own) * pairs.noise
    seeds = np.maximum(pooled / (own + prior), pairs.noise)
    examples = np.maximum(pairs.null_variance - pairs.noise, 0.0)
    student = student_quantile(NormalDist().cdf(critical), own + prior)
    variance = np.maximum(examples + seeds, np.finfo(np.float64).tiny)
    # Cochran's critical value, as in `hierarchy`.
    weighted = (examples * critical + seeds * student) / variance
    return np.asarray(weighted * np.sqrt(variance))


def _median_inflation(pairs: _Pairs, freedom: int) -> float:
    """Return by how much seeds spread beyond independent examples, as `paired` pools it."""
    noisy = pairs.noise > 0
    if not noisy.any():
        return 1.0
    ratio = float(np.median(pairs.seeds[noisy] / pairs.noise[noisy]))
    return max(1.0, ratio / (1 - 2 / (9 * freedom)) ** 3)
