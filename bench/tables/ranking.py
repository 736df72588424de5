"""Which rows are best on their dataset and which are tied for best; knows no statistics."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from bench.tables.rows import Row


@dataclass(frozen=True)
class Ranking:
    """The rows of one suite, run and dataset that may be the best.

    Attributes:
        leader: Highest mean accuracy.
        tied: Other rows that may rank first too, by accuracy.
        num_rows: Rows that were ranked.
    """

    leader: Row
    tied: tuple[Row, ...]
    num_rows: int

    @property
    def best(self) -> Row | None:
        """The leader where it is told apart from every other row; a single row is best of none."""
        return self.leader if self.num_rows > 1 and self.leader.rank_high == 1 else None

    @property
    def all(self) -> tuple[Row, ...]:
        """Leader first, then the tied rows by accuracy."""
        return (self.leader, *self.tied)


def rank(rows: Iterable[Row]) -> dict[tuple[str, int, str], Ranking]:
    """Return the ranking per suite, run and dataset; only rows that have a rank take part."""
    groups: dict[tuple[str, int, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.rank_low is not None:
            groups[row.suite, row.run_id, row.dataset].append(row)
    return {name: _ranking(group) for name, group in groups.items()}


def _ranking(group: list[Row]) -> Ranking:
    leader, *others = sorted(group, key=_accuracy, reverse=True)
    return Ranking(leader, tuple(row for row in others if row.rank_low == 1), len(group))


def _accuracy(row: Row) -> float:
    return row.test_accuracy if row.test_accuracy is not None else -1.0


def best_rows(rows: Iterable[Row]) -> list[Row]:
    """Return the rows that are told apart from every other row of their dataset, as the best."""
    return [ranking.best for ranking in rank(rows).values() if ranking.best is not None]


def tied_rows(rows: Iterable[Row]) -> list[Row]:
    """Return the rows that are tied for best, of the datasets on which no row is best."""
    rankings = [ranking for ranking in rank(rows).values() if ranking.num_rows > 1]
    return [row for ranking in rankings if ranking.best is None for row in ranking.all]


def told_apart(first: Row, second: Row) -> bool:
    """Return whether two rows of one dataset differ by more than chance.

    Their ranks, or else their accuracies, lie in intervals that do not touch.
    """
    return _apart((first.rank_low, first.rank_high), (second.rank_low, second.rank_high)) or _apart(
        (first.test_accuracy_low, first.test_accuracy_high),
        (second.test_accuracy_low, second.test_accuracy_high),
    )


_Ends = tuple[float | None, float | None]


def _apart(first: _Ends, second: _Ends) -> bool:
    (low, high), (other_low, other_high) = first, second
    if low is None or high is None or other_low is None or other_high is None:
        return False
    return high < other_low or other_high < low
