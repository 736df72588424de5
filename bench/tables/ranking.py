"""Which rows are best on their dataset, and which cannot be told from the best."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.summary import Status
from bench.tables.rows import Row


@dataclass(frozen=True)
class Ranking:
    """The rows of one suite, run and dataset that can be called best.

    Attributes:
        leader: Highest mean accuracy.
        tied: Rows other than the leader whose interval reaches the leader's accuracy.
    """

    leader: Row
    tied: tuple[Row, ...]

    @property
    def all(self) -> tuple[Row, ...]:
        """Leader first, then the tied rows by accuracy."""
        return (self.leader, *self.tied)


def rank(rows: Iterable[Row]) -> dict[tuple[str, int, str], Ranking]:
    """Return the ranking per suite, run and dataset; only rows with every seed `ok` take part.

    A row is tied with the leader when the upper end of its 95% interval is not below the leader's
    accuracy: the difference may be chance. The rows share their test examples, so a paired test
    could part some that are tied here; none that is parted here is a tie by this rule.
    """
    groups: dict[tuple[str, int, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.status == Status.OK and row.test_accuracy is not None:
            groups[row.suite, row.run_id, row.dataset].append(row)
    return {name: _ranking(group) for name, group in groups.items()}


def _ranking(group: Sequence[Row]) -> Ranking:
    ordered = sorted(group, key=_accuracy, reverse=True)
    leader, *others = ordered
    return Ranking(leader, tuple(row for row in others if _reaches(row, _accuracy(leader))))


def _accuracy(row: Row) -> float:
    return row.test_accuracy if row.test_accuracy is not None else -1.0


def _reaches(row: Row, accuracy: float) -> bool:
    return row.test_accuracy_high is not None and row.test_accuracy_high >= accuracy


def best_rows(rows: Iterable[Row]) -> list[Row]:
    """Return every row that is best on its dataset or cannot be told from the best."""
    return [row for ranking in rank(rows).values() for row in ranking.all]
