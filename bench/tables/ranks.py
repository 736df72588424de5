"""The records of rows on one dataset -> which ranks each may have; knows no column and no text."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.folds import fold_sizes, pool_folds
from bench.metrics import outcome_bits
from bench.significance import (
    better_rows,
    fold_excess,
    hierarchical_interval,
    outcome_spread,
    rank_ends,
)
from bench.stats import Interval, accuracy_interval
from bench.summary import RecordSummary

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Contender:
    """A row that takes part in a ranking: every seed ended `ok`.

    Attributes:
        records: One per seed, folds pooled.
        interval: Of the mean accuracy, at 95%.
    """

    records: tuple[RecordSummary, ...]
    interval: Interval


def row_interval(records: Sequence[RecordSummary]) -> Interval | None:
    """Return the 95% interval of the mean accuracy of a row; None where nothing was tested.

    From the outcomes per example where every seed has them on the same examples, otherwise from
    the counts alone, which is wider: see `bench.stats.accuracy_interval`.

    Args:
        records: The row's records that ended `ok`, one per seed, or per seed and fold.
    """
    whole = pool_folds(records)
    tests = [record.test for record in whole if record.test is not None]
    if not tests:
        return None
    if _same_examples(whole) is None:
        correct = [round(test.accuracy * test.num_examples) for test in tests]
        return accuracy_interval(correct, [test.num_examples for test in tests])
    bits = np.unpackbits(_packed(whole), axis=1, count=tests[0].num_examples).astype(np.bool_)
    excess = fold_excess(bits, fold_sizes(records))
    return hierarchical_interval(outcome_spread(bits), folds=excess)


def _same_examples(records: Sequence[RecordSummary]) -> tuple[str, int] | None:
    """Return digest and number of the test examples that all the records share, or None."""
    found = {_examples(record) for record in records}
    return found.pop() if len(found) == 1 else None


def _examples(record: RecordSummary) -> tuple[str, int] | None:
    outcomes, test = record.outcomes, record.test
    if outcomes is None or test is None or outcomes.num_examples != test.num_examples:
        return None
    return outcomes.ids_digest, outcomes.num_examples


def _packed(records: Sequence[RecordSummary]) -> NDArray[np.uint8]:
    return np.stack([outcome_bits(record.outcomes) for record in records if record.outcomes])


def rank_contenders(contenders: Sequence[Contender]) -> list[tuple[int, int]]:
    """Return the lowest and highest rank that each row of one dataset may have, from 1.

    Rows with the same seeds and the same test examples are compared example by example. Where that
    cannot be, one is better only if the two intervals are apart.

    Args:
        contenders: Of one suite, run and dataset.
    """
    low = np.array([each.interval.low for each in contenders])
    high = np.array([each.interval.high for each in contenders])
    better = low[:, None] > high[None, :]
    for places, (_, num_examples) in _comparable(contenders):
        packed = np.stack([_packed(_by_seed(contenders[place])) for place in places])
        better[np.ix_(places, places)] = better_rows(packed, num_examples)
    ranks = rank_ends(better)
    return list(zip(ranks.low.tolist(), ranks.high.tolist(), strict=True))


def _comparable(contenders: Sequence[Contender]) -> list[tuple[list[int], tuple[str, int]]]:
    """Return the places of rows that share seeds and test examples, with these examples."""
    groups: dict[tuple[tuple[int, ...], tuple[str, int]], list[int]] = defaultdict(list)
    for place, each in enumerate(contenders):
        examples = _same_examples(each.records)
        if examples is not None:
            seeds = tuple(record.cell.seed for record in _by_seed(each))
            groups[seeds, examples].append(place)
    return [(places, examples) for (_, examples), places in groups.items() if len(places) > 1]


def _by_seed(contender: Contender) -> list[RecordSummary]:
    return sorted(contender.records, key=lambda record: record.cell.seed)
