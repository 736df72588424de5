"""A history -> small charts of levels and changes over the runs; knows no store and no page."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bench.gate.trends import (
    OTHER_CONDITIONS,
    CellTrend,
    History,
    Run,
    Series,
    Shift,
    latest_runs,
    least_change,
)
from bench.gate.values import FAMILIES, QUALITY, Metric
from bench.report.axes import Axis, Tick, linear_axis
from bench.significance import ChangeKind
from bench.tables import scale
from bench.tables.history import cause_text, metric_name, run_text, shift_text, value_text
from bench.tables.verdicts import changes_text

WIDTH, HEIGHT = 420, 190
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 14, 38
_MOST_RUNS = 60
_MOST_PANELS = 24
_FEW_PANELS = 12
_MOST_X_TICKS = 6
_QUIET_METRICS = (Metric.ACCURACY, Metric.INFER_RATE)
_LEAST_RUNS = 2
_ROOM = 8
_LEAST_SPAN = 8
"""An axis spans at least so many of the smallest changes that count: noise shall not look large."""


_UNITS = {
    "accuracy": (100.0, "%"),
    "macro_f1": (100.0, "%"),
    "nll": (1.0, "nats"),
    "throughput": (1.0, "examples/s"),
    "latency": (1000.0, "ms"),
    "memory": (1 / (1 << 20), "MiB"),
}


@dataclass(frozen=True)
class Mark:
    """A tick of the axis of runs: its position, and the number of the run."""

    x: float
    text: str


@dataclass(frozen=True)
class Dot:
    """A measured value; old where its conditions are not those of the newest run."""

    x: float
    y: float
    old: bool
    tip: str


@dataclass(frozen=True)
class Line:
    """A level, from its first run to its last."""

    x1: float
    x2: float
    y: float
    old: bool


@dataclass(frozen=True)
class Sign:
    """A change on the axis of runs: good, bad, accepted or neutral; ``new`` where conditions are.

    Attributes:
        text: When, what and by how much.
        cause: What else changed at that run.
    """

    x: float
    kind: str
    text: str
    cause: str

    @property
    def tip(self) -> str:
        """What hovering over it says."""
        return f"{self.text}\n{self.cause}" if self.cause else self.text


@dataclass(frozen=True)
class TrendPanel:
    """A metric of a cell over the runs.

    Attributes:
        paths: SVG paths through neighbouring values; a gap parts them.
    """

    cell: str
    metric: str
    now: str
    y_title: str
    description: str
    x_ticks: tuple[Mark, ...]
    y_ticks: tuple[Tick, ...]
    paths: tuple[str, ...]
    dots: tuple[Dot, ...]
    lines: tuple[Line, ...]
    signs: tuple[Sign, ...]


@dataclass(frozen=True)
class TrendSection:
    """What the page shows of a history.

    Attributes:
        num_changed: Metrics of cells that have a change, drawn or not.
        num_left_out: Metrics of cells that are not drawn.
        num_changed_left_out: Those of them that have a change.
    """

    first: str
    last: str
    num_runs: int
    panels: tuple[TrendPanel, ...]
    num_changed: int
    num_left_out: int
    num_changed_left_out: int
    problems: tuple[str, ...]


def trend_section(history: History) -> TrendSection | None:
    """Return the charts of a history: what changed first, then the most accurate cells.

    Args:
        history: Of one suite, all its runs.

    Returns:
        None where there are not two runs to compare.
    """
    if len(history.runs) < _LEAST_RUNS:
        return None
    shown = latest_runs(history, _MOST_RUNS)
    groups = [group for trend in shown.cells for group in _groups(trend)]
    changed = sorted((g for g in groups if g.changed), key=lambda g: g.rank)
    quiet = [g for g in _best(groups) if not g.changed]
    drawn = [*changed[:_MOST_PANELS], *quiet[: max(0, _FEW_PANELS - len(changed))]]
    return TrendSection(
        first=run_text(shown.runs[0]),
        last=run_text(shown.runs[-1]),
        num_runs=len(shown.runs),
        panels=tuple(_panel(group, shown.runs) for group in drawn),
        num_changed=len(changed),
        num_left_out=len(groups) - len(drawn),
        num_changed_left_out=max(0, len(changed) - _MOST_PANELS),
        problems=shown.problems,
    )


@dataclass(frozen=True)
class _Group:
    """All series of a cell and metric, the one of the newest conditions last."""

    trend: CellTrend
    series: tuple[Series, ...]

    @property
    def newest(self) -> Series:
        return self.series[-1]

    @property
    def changed(self) -> bool:
        return any(series.shifts for series in self.series)

    @property
    def rank(self) -> tuple[int, int]:
        """The latest change first; of one run, what got worse first."""
        shifts = [shift for series in self.series for shift in series.shifts]
        last = max(shift.position for shift in shifts)
        worse = any(shift.better is False for shift in shifts if shift.position == last)
        return (-last, 0 if worse else 1)


def _groups(trend: CellTrend) -> list[_Group]:
    groups = []
    for metric in Metric:
        own = [series for series in trend.series if series.metric is metric]
        ordered = sorted(own, key=lambda series: (series.newest, _last_run(series)))
        groups += [_Group(trend, tuple(ordered))] if ordered else []
    return groups


def _last_run(series: Series) -> int:
    return max(level.last for level in series.levels)


def _best(groups: Sequence[_Group]) -> list[_Group]:
    """Return accuracy and speed of cells, the most accurate ones of each dataset in turn."""
    levels = dict.fromkeys((group.newest.cell for group in groups), -1.0)
    for group in groups:
        if group.newest.metric is Metric.ACCURACY:
            levels[group.newest.cell] = group.newest.levels[-1].value
    ranks: dict[str, int] = {}
    counts: Counter[str] = Counter()
    for name in sorted(levels, key=lambda name: -levels[name]):
        dataset = name.split(" · ")[1]
        ranks[name] = counts[dataset]
        counts[dataset] += 1
    named = [group for group in groups if group.newest.metric in _QUIET_METRICS]
    return sorted(named, key=lambda g: (ranks[g.newest.cell], -levels[g.newest.cell]))


@dataclass(frozen=True)
class _Frame:
    """Where runs and values of a metric lie in the SVG."""

    runs: Sequence[Run]
    axis: Axis
    factor: float

    def x(self, place: int) -> float:
        share = place / max(1, len(self.runs) - 1)
        return round(LEFT + _ROOM + share * (WIDTH - LEFT - RIGHT - 2 * _ROOM), 1)

    def y(self, value: float) -> float:
        return place_y(self.axis.share(value * self.factor))


def place_y(share: float) -> float:
    """Return the y position of a share of the axis of values, in the SVG's units."""
    return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def _frame(group: _Group, runs: Sequence[Run]) -> _Frame:
    metric = group.newest.metric
    factor = _UNITS[FAMILIES[metric]][0]
    known = [value for series in group.series for value in series.values if value is not None]
    middle = (min(known) + max(known)) / 2
    span = _LEAST_SPAN / 2 * least_change(metric) * (1.0 if metric in QUALITY else middle)
    most = 1.0 if metric in (Metric.ACCURACY, Metric.MACRO_F1) else math.inf
    ends = [*known, max(0.0, middle - span), min(most, middle + span)]
    axis = linear_axis([end * factor for end in ends], least=0.0, most=most * factor)
    return _Frame(runs, axis, factor)


def _panel(group: _Group, runs: Sequence[Run]) -> TrendPanel:
    newest, frame = group.newest, _frame(group, runs)
    return TrendPanel(
        cell=newest.cell,
        metric=metric_name(newest.metric),
        now=value_text(newest.metric, newest.levels[-1].value),
        y_title=_UNITS[FAMILIES[newest.metric]][1],
        description=_describe(group, runs),
        x_ticks=_run_ticks(frame),
        y_ticks=tuple(frame.axis.ticks(scale.rate, most=4)),
        paths=tuple(path for series in group.series for path in _paths(series, frame)),
        dots=tuple(dot for series in group.series for dot in _dots(series, frame)),
        lines=tuple(
            Line(frame.x(level.first), frame.x(level.last), frame.y(level.value), not series.newest)
            for series in group.series
            for level in series.levels
        ),
        signs=tuple(_signs(group, frame)),
    )


def _describe(group: _Group, runs: Sequence[Run]) -> str:
    newest = group.newest
    told = [shift_text(shift, each, runs) for each in group.series for shift in each.shifts]
    found = "; ".join(told) or "no change of level"
    name = metric_name(newest.metric)
    return f"{name} of {newest.cell} over {len(runs)} runs: {found}."


def _run_ticks(frame: _Frame) -> tuple[Mark, ...]:
    count = len(frame.runs)
    step = max(1, math.ceil(count / _MOST_X_TICKS))
    return tuple(
        Mark(frame.x(place), str(frame.runs[place].run_id)) for place in range(0, count, step)
    )


def _paths(series: Series, frame: _Frame) -> list[str]:
    """Return a path per stretch of neighbouring values; runs under other conditions part none."""
    paths: list[list[str]] = [[]]
    for place, value in enumerate(series.values):
        if value is not None:
            paths[-1].append(f"{frame.x(place)} {frame.y(value)}")
        elif series.gaps[place] != OTHER_CONDITIONS and paths[-1]:
            paths.append([])
    return ["M" + "L".join(path) for path in paths if len(path) > 1]


def _dots(series: Series, frame: _Frame) -> list[Dot]:
    dots = []
    for place, value in enumerate(series.values):
        if value is not None:
            when = f"{run_text(frame.runs[place])}\n{value_text(series.metric, value)}"
            tip = when if series.newest else f"{when}\nunder other conditions than now"
            dots.append(Dot(frame.x(place), frame.y(value), not series.newest, tip))
    return dots


def _signs(group: _Group, frame: _Frame) -> list[Sign]:
    signs = [
        Sign(
            frame.x(shift.position),
            _kind(shift),
            shift_text(shift, series, frame.runs),
            "" if shift.kind is ChangeKind.ACCEPTED else cause_text(shift),
        )
        for series in group.series
        for shift in series.shifts
    ]
    for begin in group.trend.beginnings:
        changed = changes_text(begin.changes) or "what is not recorded"
        text = f"other conditions since {run_text(frame.runs[begin.position])}: {changed}"
        signs.append(Sign(frame.x(begin.position), "new", text, ""))
    return sorted(signs, key=lambda sign: sign.x)


def _kind(shift: Shift) -> str:
    if shift.kind is ChangeKind.ACCEPTED:
        return "accepted"
    return {True: "good", False: "bad", None: "neutral"}[shift.better]
