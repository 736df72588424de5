"""A run's level made the reference of some cells, with a reason; knows no table and no terminal."""

import getpass
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from bench.errors import UsageError
from bench.gate.baseline import Baseline
from bench.gate.levels import AcceptedLevel, add_levels
from bench.gate.naming import select_cells
from bench.gate.night import Night, compare_night, read_candidate
from bench.gate.records import identify, label_records
from bench.gate.values import QUALITY, GateSettings, Metric, Row, Verdict
from bench.record import Record
from bench.store import RunInfo, Store

_CHANGED = (Verdict.REGRESSED, Verdict.IMPROVED)
_MOST_NAMED = 5


@dataclass(frozen=True)
class Wish:
    """What shall be accepted.

    Attributes:
        cells: A cell's name in the baseline, a glob or a piece of it.
        metrics: None takes what the comparison calls regressed or improved.
        reason: Why, for people.
        run_id: Whose level; None is the store's newest run.
    """

    cells: str
    reason: str
    metrics: tuple[Metric, ...] | None = None
    run_id: int | None = None


def accept_levels(baseline: Baseline, store: Store, wish: Wish) -> Baseline:
    """Return a baseline with further accepted levels: all that are wished for, or none.

    A value is accepted as the comparison of the run with the baseline has it. What it cannot
    compare cannot be accepted either.

    Args:
        baseline: What the run is compared with.
        store: Holds the run.
        wish: What to accept.

    Raises:
        UsageError: No reason, no such run or cell, a cell that failed or cannot be compared, or
            nothing that regressed or improved where no metric is named.
    """
    if not wish.reason.strip():
        raise UsageError("a level is accepted with a reason: --reason 'torch 2.15 changed …'")
    names = list(dict.fromkeys(label_records(baseline.records).values()))
    chosen = select_cells(names, wish.cells, f"baseline '{baseline.name}'")
    run = _find_run(store, baseline.suite, wish.run_id)
    candidate = read_candidate(store, baseline, [run.id])
    night = compare_night(baseline, candidate, GateSettings())
    rows = _wanted_rows(night, chosen, wish, run)
    groups = _seeds_of_baseline(baseline.records, candidate.records)
    new = [_level(name, own, groups[name], run, wish.reason) for name, own in rows.items()]
    return replace(baseline, accepted=add_levels(baseline.accepted, new))


def _seeds_of_baseline(
    before: Sequence[Record], after: Sequence[Record]
) -> Mapping[str, Sequence[Record]]:
    """Return cell -> the run's records of those seeds that the baseline has: no more are asked."""
    names = label_records(before)
    labels = label_records(after, names)
    held = {(names[identify(record.cell)], record.cell.seed) for record in before}
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in after:
        name = labels[identify(record.cell)]
        if (name, record.cell.seed) in held:
            groups[name].append(record)
    return groups


def _find_run(store: Store, suite: str, wished: int | None) -> RunInfo:
    store.check_suite(suite)
    runs = {run.id: run for run in store.runs(suite)}
    if wished is None:
        return runs[max(runs)]
    if wished not in runs:
        known = ", ".join(str(number) for number in sorted(runs)[-_MOST_NAMED:])
        raise UsageError(
            f"suite '{suite}' in {store.name} has no run {wished}. Its newest: {known}"
        )
    return runs[wished]


def _wanted_rows(
    night: Night, cells: Sequence[str], wish: Wish, run: RunInfo
) -> Mapping[str, Sequence[Row]]:
    """Return cell -> the rows whose candidate is the new level."""
    by_cell: dict[str, list[Row]] = {name: [] for name in cells}
    for row in night.verdicts.rows:
        if row.cell in by_cell:
            by_cell[row.cell].append(row)
    obstacles = [row for rows in by_cell.values() for row in rows if _is_obstacle(row)]
    found: dict[str, list[Row]] = {}
    for name, rows in by_cell.items():
        metrics = _wanted_metrics(rows, wish.metrics)
        wanted = [row for row in rows if row.metric in metrics]
        obstacles += [row for row in wanted if row.effect is None]
        if wanted:
            found[name] = wanted
    if obstacles:
        raise UsageError(_refusal(obstacles, run))
    if not found:
        raise UsageError(_emptiness(cells, wish, run))
    return found


def _emptiness(cells: Sequence[str], wish: Wish, run: RunInfo) -> str:
    more = f" and {len(cells) - _MOST_NAMED} more" if len(cells) > _MOST_NAMED else ""
    named = ", ".join(cells[:_MOST_NAMED]) + more
    if wish.metrics is not None:
        metrics = ", ".join(wish.metrics)
        return f"neither the baseline nor run {run.id} has a value of {metrics} for {named}"
    return (
        f"nothing of {named} regressed or improved in run {run.id}, so there is no new level to "
        f"accept. To accept one all the same, name it: --metric {Metric.ACCURACY.value}"
    )


def _is_obstacle(row: Row) -> bool:
    return row.metric is None and row.verdict is not Verdict.FIXED


def _wanted_metrics(rows: Sequence[Row], wished: Sequence[Metric] | None) -> set[Metric]:
    if wished is None:
        metrics = {row.metric for row in rows if row.metric and row.verdict in _CHANGED}
    else:
        metrics = set(wished)
    # A prediction is right or wrong in all three, so they are of one run.
    return metrics | set(QUALITY) if metrics & set(QUALITY) else metrics


def _refusal(obstacles: Sequence[Row], run: RunInfo) -> str:
    lines = [f"run {run.id} has no level to accept for all that is asked for:"]
    for row in obstacles[:_MOST_NAMED]:
        metric = f" · {row.metric.value}" if row.metric else ""
        verdict = row.verdict.value.replace("_", " ")
        lines.append(f"  {row.cell}{metric} is {verdict}: {'; '.join(row.reasons)}")
    more = len(obstacles) - _MOST_NAMED
    return "\n".join([*lines, f"  and {more} more"] if more > 0 else lines)


def _level(
    name: str, rows: Sequence[Row], records: Sequence[Record], run: RunInfo, reason: str
) -> AcceptedLevel:
    values = {
        row.metric: (row.baseline, row.candidate)
        for row in rows
        if row.metric is not None and row.baseline is not None and row.candidate is not None
    }
    if not values.keys() & set(QUALITY):
        records = [record.model_copy(update={"predictions": ()}) for record in records]
    return AcceptedLevel(
        cell=name,
        metrics=tuple(values),
        reason=reason.strip(),
        accepted_at=datetime.now(UTC).replace(microsecond=0),
        accepted_by=_login(),
        scope=run.scope,
        run_id=run.id,
        values=values,
        records=tuple(records),
    )


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"
