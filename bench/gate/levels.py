"""Levels that were accepted with a reason: what they replace in a baseline; knows no file."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from bench.gate.reading import read_cell
from bench.gate.records import Side
from bench.gate.values import QUALITY, Measured, Metric, Verdicts
from bench.record import Record


@dataclass(frozen=True)
class AcceptedLevel:
    """What a run showed of a cell, made the reference for some metrics of it.

    Attributes:
        cell: Its name in the baseline.
        metrics: Those that are accepted; of quality all three or none.
        reason: Why, for people; not empty.
        accepted_by: Who, as far as the machine knows.
        scope: Of the run.
        run_id: Its number in the store it was read from.
        values: Metric -> the reference before, and the one from there on, as tables have them.
        records: One per seed, with predictions where quality is accepted; empty where later levels
            replace all of it.
    """

    cell: str
    metrics: tuple[Metric, ...]
    reason: str
    accepted_at: datetime
    accepted_by: str
    scope: str
    run_id: int
    values: Mapping[Metric, tuple[float, float]]
    records: tuple[Record, ...]


def apply_levels(side: Side, accepted: Sequence[AcceptedLevel]) -> Side:
    """Return a baseline's side with accepted levels in place of what it was saved with.

    Args:
        side: Of the baseline.
        accepted: In the order in which they were; the last one of a metric holds.
    """
    by_cell = defaultdict(list)
    for level in accepted:
        if level.records:
            by_cell[level.cell].append(level)
    cells = tuple(_replaced(cell, by_cell[cell.cell]) for cell in side.cells)
    return replace(side, cells=cells)


def _replaced(cell: Measured, accepted: Sequence[AcceptedLevel]) -> Measured:
    for level in accepted:
        new = read_cell(level.cell, level.records)
        costs = {metric: cost for metric, cost in new.costs.items() if metric in level.metrics}
        seeds = new.seeds if set(QUALITY) & set(level.metrics) else cell.seeds
        cell = replace(cell, seeds=seeds, costs={**cell.costs, **costs})
    return cell


def tell_levels(verdicts: Verdicts, accepted: Sequence[AcceptedLevel]) -> Verdicts:
    """Return verdicts whose rows say which accepted level they are against."""
    told = {
        (level.cell, metric): f"against the level accepted {level.accepted_at:%Y-%m-%d}: "
        f"{level.reason}"
        for level in accepted
        for metric in level.metrics
    }
    rows = []
    for row in verdicts.rows:
        text = None if row.metric is None else told.get((row.cell, row.metric))
        rows.append(replace(row, reasons=(*row.reasons, text)) if text else row)
    return Verdicts(tuple(rows))


def accepted_runs(accepted: Sequence[AcceptedLevel]) -> dict[tuple[str, Metric], dict[str, str]]:
    """Return cell and metric -> scope of the run -> reason, to cut series there."""
    found: dict[tuple[str, Metric], dict[str, str]] = defaultdict(dict)
    for level in accepted:
        for metric in level.metrics:
            found[level.cell, metric][level.scope] = level.reason
    return dict(found)


def add_levels(
    accepted: Sequence[AcceptedLevel], new: Sequence[AcceptedLevel]
) -> tuple[AcceptedLevel, ...]:
    """Return all levels, oldest first; one that later ones replace whole keeps no records.

    It stays, as the history of its cell is cut where it was accepted.
    """
    kept: list[AcceptedLevel] = []
    later: dict[str, set[Metric]] = defaultdict(set)
    for level in reversed([*accepted, *new]):
        over = set(level.metrics) <= later[level.cell]
        kept.append(replace(level, records=()) if over else level)
        later[level.cell].update(level.metrics)
    return tuple(reversed(kept))
