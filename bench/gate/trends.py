"""Runs of a suite in order -> series with their levels and changes, pure; knows no store, no table.

A series is a metric of a cell under equal conditions. Other conditions make another series, which
is said and is no step: its values may not be put beside the ones before.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from statistics import median

from bench.compare import Difference, differences
from bench.gate.limits import DEFAULT_LIMITS
from bench.gate.values import FAMILIES, HIGHER_IS_BETTER, QUALITY, Metric
from bench.significance import Change, ChangeKind, ShiftSettings, find_changes

Accepted = Mapping[tuple[str, Metric], Mapping[str, str]]
"""Identity of a cell and metric -> scope of a run -> why its level was accepted."""

_DEFAULTS = ShiftSettings()
NEEDED_RUNS = 2 * _DEFAULTS.reference + _DEFAULTS.confirm
"""Measured values a series needs before a change can be found in it."""

KEY = "key"
OTHER_CONDITIONS = "measured under other conditions"


@dataclass(frozen=True)
class CellState:
    """A cell in a run, over its seeds.

    Attributes:
        identity: See `bench.gate.records.identify`.
        conditions: See `bench.gate.past.PastCell`; empty unless every seed is ok.
        values: Metric -> fraction or nats (mean over seeds), examples per second or seconds
            (median), bytes (largest); what was not measured, or has a flaw, is absent.
        flaws: Costs that are not the model's alone, see `bench.gate.reading.cost_flaws`.
        failure: Which seeds are not ok, for people; empty where all are.
        traits: What the conditions are made of, as text by name.
        versions: Package, driver, host, git revision … -> version.
    """

    identity: str
    conditions: str
    values: Mapping[Metric, float] = field(default_factory=dict)
    flaws: Mapping[Metric, str] = field(default_factory=dict)
    failure: str = ""
    traits: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A run of the suite; cells by name."""

    scope: str
    run_id: int
    started_at: datetime
    cells: Mapping[str, CellState]


@dataclass(frozen=True)
class Shift:
    """A change of level in a series.

    Attributes:
        kind: Step, drift, or a level accepted with a reason.
        position: Index of the run at which the new level begins.
        since: Number of the last measured run before; None where there is none.
        before: Median of the old level; None where it had no value.
        after: Median of the values that confirmed the new one.
        better: None where before and after do not differ by what counts.
        reason: Why it was accepted, else None.
        changes: Versions, driver, host, revision that differ between these two runs.
    """

    kind: ChangeKind
    position: int
    since: int | None
    before: float | None
    after: float
    better: bool | None
    reason: str | None
    changes: tuple[Difference, ...]


@dataclass(frozen=True)
class Level:
    """The median of the values from one change to the next; indices of its first and last run."""

    first: int
    last: int
    value: float


@dataclass(frozen=True)
class Series:
    """A metric of a cell under equal conditions, with a value or a gap for every run.

    Attributes:
        gaps: Why there is no value, for people; empty where there is one.
        num_measured: How many values changes were looked for in, those before the first one here
            included.
        newest: Whether the cell's newest measured run is of these conditions.
    """

    cell: str
    metric: Metric
    conditions: str
    values: tuple[float | None, ...]
    gaps: tuple[str, ...]
    shifts: tuple[Shift, ...]
    levels: tuple[Level, ...]
    num_measured: int
    newest: bool


@dataclass(frozen=True)
class Beginning:
    """Other conditions than the run before had.

    Attributes:
        position: Index of the first run under them.
        changes: What differs from the cell's last measured run before.
    """

    position: int
    conditions: str
    changes: tuple[Difference, ...]


@dataclass(frozen=True)
class CellTrend:
    """The series of a cell, by metric and then by conditions; beginnings without the first."""

    name: str
    series: tuple[Series, ...]
    beginnings: tuple[Beginning, ...]


@dataclass(frozen=True)
class History:
    """The runs of a suite, oldest first, and what became of its cells.

    Attributes:
        num_earlier: Runs before the first of these.
        num_earlier_shifts: Changes found in them.
        problems: What could not be read, for people.
    """

    suite: str
    runs: tuple[Run, ...]
    cells: tuple[CellTrend, ...]
    num_earlier: int = 0
    num_earlier_shifts: int = 0
    problems: tuple[str, ...] = ()


def least_change(metric: Metric) -> float:
    """Return the smallest change that is one: a difference, or of costs a log of the ratio.

    That is half of what the gate lets nobody be woken for: what is about as large as the limit of a
    search is found late, and the gate's own findings shall be dated to the night they came.
    """
    limit = DEFAULT_LIMITS[FAMILIES[metric]] / 2
    return limit if metric in QUALITY else math.log1p(limit)


def find_trends(
    suite: str, runs: Sequence[Run], accepted: Accepted, *, num_earlier: int = 0
) -> History:
    """Return every series of the runs with its changes, each dated to one run.

    Later runs never move or remove a change, as long as the first run stays the same.

    Args:
        suite: Whose.
        runs: Oldest first; cells come in the order of the newest.
        accepted: Levels that were accepted.
        num_earlier: Runs of the suite that are not among these.
    """
    names = dict.fromkeys(name for run in reversed(runs) for name in run.cells)
    cells = tuple(_trend(name, runs, accepted) for name in names)
    return History(suite, tuple(runs), cells, num_earlier)


def _trend(name: str, runs: Sequence[Run], accepted: Accepted) -> CellTrend:
    states = [run.cells.get(name) for run in runs]
    groups: dict[str, list[int]] = defaultdict(list)
    for position, state in enumerate(states):
        if state is not None and state.conditions:
            groups[state.conditions].append(position)
    newest = max(groups, key=lambda conditions: groups[conditions][-1], default="")
    series = [
        _series(_Place(name, metric, conditions, conditions == newest), runs, states, accepted)
        for metric in Metric
        for conditions, positions in groups.items()
        if any(metric in _measured(states[position]) for position in positions)
    ]
    return CellTrend(name, tuple(series), _beginnings(states, groups))


@dataclass(frozen=True)
class _Place:
    cell: str
    metric: Metric
    conditions: str
    newest: bool


_States = Sequence[CellState | None]


def _measured(state: CellState | None) -> Mapping[Metric, float]:
    return {} if state is None else state.values


def _series(place: _Place, runs: Sequence[Run], states: _States, accepted: Accepted) -> Series:
    metric = place.metric
    gaps = tuple(_gap(state, place) for state in states)
    values = tuple(
        None if gap else _measured(state)[metric] for state, gap in zip(states, gaps, strict=True)
    )
    reasons: dict[int, str] = {}
    for position, (run, state) in enumerate(zip(runs, states, strict=True)):
        if state is not None and state.conditions == place.conditions:
            reason = accepted.get((state.identity, metric), {}).get(run.scope)
            reasons |= {position: reason} if reason else {}
    changes = _changes(metric, values, reasons)
    return Series(
        cell=place.cell,
        metric=metric,
        conditions=place.conditions,
        values=values,
        gaps=gaps,
        shifts=tuple(_shift(change, metric, values, (runs, states)) for change in changes),
        levels=_levels(values, changes),
        num_measured=sum(value is not None for value in values),
        newest=place.newest,
    )


def _gap(state: CellState | None, place: _Place) -> str:
    """Return why a run has no value of a series, or an empty text where it has one."""
    if state is None:
        return "the run lacks this cell"
    if state.failure:
        return state.failure
    if state.conditions != place.conditions:
        return OTHER_CONDITIONS
    if place.metric in state.flaws:
        return state.flaws[place.metric].partition(",")[0]
    return "" if place.metric in state.values else "not measured"


def _changes(
    metric: Metric, values: Sequence[float | None], reasons: Mapping[int, str]
) -> tuple[Change, ...]:
    settings = ShiftSettings(least=least_change(metric), accepted=reasons)
    if metric in QUALITY:
        return find_changes(values, settings)
    # A tenth slower is as much at any speed; there is no such share of nothing.
    logs = [math.log(value) if value else None for value in values]
    return tuple(
        replace(change, before=math.exp(change.before), after=math.exp(change.after))
        for change in find_changes(logs, settings)
    )


def _shift(
    change: Change,
    metric: Metric,
    values: Sequence[float | None],
    measured: tuple[Sequence[Run], _States],
) -> Shift:
    runs, states = measured
    earlier = [place for place in range(change.position) if values[place] is not None]
    first = states[earlier[-1]] if earlier else None
    second = states[change.position]
    known = first is not None and second is not None
    return Shift(
        kind=change.kind,
        position=change.position,
        since=runs[earlier[-1]].run_id if earlier else None,
        before=None if math.isnan(change.before) else change.before,
        after=change.after,
        better=_is_better(metric, change.before, change.after),
        reason=change.reason,
        changes=tuple(differences(first.versions, second.versions)) if known else (),  # type: ignore[union-attr]
    )


def _is_better(metric: Metric, before: float, after: float) -> bool | None:
    if math.isnan(before):
        return None
    rise = after - before if metric in QUALITY else math.log(after / before)
    if abs(rise) < least_change(metric):
        return None
    return (rise > 0) == (metric in HIGHER_IS_BETTER)


def _levels(values: Sequence[float | None], changes: Sequence[Change]) -> tuple[Level, ...]:
    found = []
    for start, end in pairwise([0, *(change.position for change in changes), len(values)]):
        places = [place for place in range(start, end) if values[place] is not None]
        if places:
            own = [value for value in values[start:end] if value is not None]
            found.append(Level(places[0], places[-1], median(own)))
    return tuple(found)


def _beginnings(states: _States, groups: Mapping[str, Sequence[int]]) -> tuple[Beginning, ...]:
    found = []
    for conditions, positions in groups.items():
        start = positions[0]
        earlier = [state for state in states[:start] if state is not None and state.conditions]
        if earlier:
            changes = tuple(differences(earlier[-1].traits, _traits(states[start])))
            telling = tuple(change for change in changes if change.name != KEY)
            found.append(Beginning(start, conditions, telling or changes))
    return tuple(sorted(found, key=lambda each: each.position))


def _traits(state: CellState | None) -> Mapping[str, str]:
    return {} if state is None else state.traits


def latest_runs(history: History, count: int) -> History:
    """Return a history of its newest runs only; what was found in all of them stays as it is.

    Args:
        history: Of all runs.
        count: How many to keep, at least one.
    """
    start = max(0, len(history.runs) - count)
    if not start:
        return history
    cells = [_cut_trend(trend, start) for trend in history.cells]
    shifts = [shift for trend in history.cells for s in trend.series for shift in s.shifts]
    return replace(
        history,
        runs=history.runs[start:],
        cells=tuple(trend for trend in cells if trend.series),
        num_earlier=history.num_earlier + start,
        num_earlier_shifts=sum(shift.position < start for shift in shifts),
    )


def _cut_trend(trend: CellTrend, start: int) -> CellTrend:
    series = [_cut_series(each, start) for each in trend.series]
    beginnings = [
        replace(each, position=each.position - start)
        for each in trend.beginnings
        if each.position >= start
    ]
    shown = (each for each in series if each.levels)
    return CellTrend(trend.name, tuple(shown), tuple(beginnings))


def _cut_series(series: Series, start: int) -> Series:
    shifts = [
        replace(shift, position=shift.position - start)
        for shift in series.shifts
        if shift.position >= start
    ]
    levels = [
        replace(level, first=max(0, level.first - start), last=level.last - start)
        for level in series.levels
        if level.last >= start
    ]
    return replace(
        series,
        values=series.values[start:],
        gaps=series.gaps[start:],
        shifts=tuple(shifts),
        levels=tuple(levels),
    )
