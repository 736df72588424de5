"""A history -> texts in readable units, for the terminal; knows no store and finds no change."""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from bench.compare import Difference
from bench.gate.levels import AcceptedLevel
from bench.gate.trends import (
    NEEDED_RUNS,
    CellTrend,
    History,
    Run,
    Series,
    Shift,
    least_change,
)
from bench.gate.values import QUALITY, Metric
from bench.significance import ChangeKind
from bench.tables import scale
from bench.tables.consoles import text_console
from bench.tables.verdicts import METRIC_UNITS, changes_text

_POINTS = (Metric.ACCURACY, Metric.MACRO_F1)
_REVISION = re.compile(r"\b([0-9a-f]{10})[0-9a-f]{30}\b")
_BARS = "▁▂▃▄▅▆▇█"
_FLAT = "▄"
_GAP = "·"
_MOST_CHANGED = 50
_MOST_QUIET = 25
_NAME_WIDTH = 14
_VALUE_WIDTH = 12
_MARGIN = 2


def value_text(metric: Metric, value: float | None) -> str:
    """Return a value in its usual unit: ``91.2%``, ``820/s``, ``4.1 ms``, ``180 MiB``."""
    if value is None:
        return scale.ABSENT
    rate = "/s" if metric in (Metric.TRAIN_RATE, Metric.INFER_RATE) else ""
    return f"{METRIC_UNITS[metric][1](value)}{rate}"


def metric_name(metric: Metric) -> str:
    """Return what a metric is called where its unit stands beside the value: ``infer speed``."""
    return METRIC_UNITS[metric][0].replace("/s", " speed")


def run_text(run: Run) -> str:
    """Return ``run 17, 2026-01-18``."""
    return f"run {run.run_id}, {_day(run.started_at)}"


def _day(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d}"


def shift_text(shift: Shift, series: Series, runs: Sequence[Run]) -> str:
    """Return when, what and by how much: ``step at run 17, 2026-01-18: 100/s → 120/s (+20.0%)``.

    Args:
        shift: Of the series.
        series: Whose.
        runs: Of the history.
    """
    metric, where = series.metric, run_text(runs[shift.position])
    values = f"{value_text(metric, shift.before)} → {value_text(metric, shift.after)}"
    told = f"{shift.kind.value} at {where}: {values}{_effect(shift, metric)}"
    if shift.kind is ChangeKind.ACCEPTED:
        told += f": {shift.reason}"
    elif shift.better is not None:
        told += ", better" if shift.better else ", worse"
    return told


def _effect(shift: Shift, metric: Metric) -> str:
    if shift.before is None:
        return ""
    if metric in _POINTS:
        return f" ({100 * (shift.after - shift.before):+.1f} pt)"
    if metric in QUALITY:
        return f" ({shift.after - shift.before:+.3f})"
    return f" ({100 * (shift.after / shift.before - 1):+.1f}%)"


def cause_text(shift: Shift) -> str:
    """Return what changed between the runs around a change, where a search for its cause begins."""
    if shift.since is None:
        return "no earlier run to look at"
    changed = changes_text([_brief(change) for change in shift.changes])
    if not changed:
        return f"nothing that is recorded changed since run {shift.since}"
    return f"changed since run {shift.since}: {changed}"


def _brief(change: Difference) -> Difference:
    """Return a difference whose git revisions have as many digits as people use."""
    if change.name != "git revision":
        return change
    first, second = (
        _REVISION.sub(r"\1", text) if text else text for text in (change.first, change.second)
    )
    return Difference(change.name, first, second)


def level_text(level: AcceptedLevel) -> str:
    """Return an accepted level in one line: when, by whom, what from what to what, and why."""
    values = ", ".join(
        f"{metric_name(metric)} {value_text(metric, before)} → {value_text(metric, after)}"
        for metric, (before, after) in level.values.items()
    )
    when = f"{_day(level.accepted_at)} by {level.accepted_by}, run {level.run_id}"
    return f"{when}: {level.cell}: {values}: {level.reason}"


def sparkline(series: Series) -> str:
    """Return a sign per run, low to high; a dot is a gap, and changes too small to count are flat.

    Args:
        series: Of one metric.
    """
    known = [value for value in series.values if value is not None]
    if not known:
        return _GAP * len(series.values)
    low, high = min(known), max(known)
    least = least_change(series.metric) * (1.0 if series.metric in QUALITY else abs(high))
    return "".join(_sign(value, low, high, least) for value in series.values)


def _sign(value: float | None, low: float, high: float, least: float) -> str:
    if value is None:
        return _GAP
    if high - low < least:
        return _FLAT
    return _BARS[min(len(_BARS) - 1, int((value - low) / (high - low) * len(_BARS)))]


def history_text(
    history: History,
    *,
    width: int,
    colour: bool = False,
    metrics: Sequence[Metric] | None = None,
) -> str:
    """Return the history for a terminal: what changed first, the latest changes on top.

    Args:
        history: The runs to show; sparklines show as many of the newest as fit.
        width: Columns of the terminal.
        colour: Whether escape sequences are written.
        metrics: Those to show line by line; None shows those that changed so, and sums up others.
    """
    console, file = text_console(width, colour=colour)
    page = _Page(console, history, width, metrics)
    page.print_head()
    changed = [trend for trend in history.cells if _is_told(trend, metrics)]
    for trend in sorted(changed, key=_latest, reverse=True)[:_MOST_CHANGED]:
        page.print_cell(trend)
    page.print_left_out(len(changed) - _MOST_CHANGED, "more with changes")
    quiet = [trend for trend in history.cells if not _is_told(trend, metrics)]
    page.print_quiet(quiet)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def _is_told(trend: CellTrend, metrics: Sequence[Metric] | None) -> bool:
    changed = any(_is_changed(each, metrics) for each in trend.series)
    return changed or bool(trend.beginnings) or metrics is not None


def _is_changed(series: Series, metrics: Sequence[Metric] | None) -> bool:
    return bool(series.shifts) and (metrics is None or series.metric in metrics)


def _latest(trend: CellTrend) -> int:
    shifts = [shift.position for series in trend.series for shift in series.shifts]
    return max([*shifts, *(each.position for each in trend.beginnings)], default=-1)


class _Page:
    """Prints the parts of a history."""

    def __init__(
        self, console: Console, history: History, width: int, metrics: Sequence[Metric] | None
    ) -> None:
        self._console = console
        self._history = history
        self._metrics = metrics
        self._room = max(1, width - _MARGIN - _NAME_WIDTH - _VALUE_WIDTH)

    def _print(self, text: str, style: str = "", *, indent: int = 0) -> None:
        padded = Padding(Text(scale.printable(text), style), (0, 0, 0, indent), expand=False)
        self._console.print(padded)

    def print_head(self) -> None:
        history = self._history
        if not history.runs:
            self._print(f"suite {history.suite} has no run with a record")
            return
        first, last = history.runs[0], history.runs[-1]
        count = len(history.runs)
        span = run_text(last) if count == 1 else f"{run_text(first)}, to {run_text(last)}"
        self._print(f"suite {history.suite}: {count} {'run' if count == 1 else 'runs'}, {span}")
        if history.num_earlier:
            found = f", with {history.num_earlier_shifts} changes in them"
            known = found if history.num_earlier_shifts else ""
            self._print(f"{history.num_earlier} earlier runs are not shown{known}", "dim")
        if not any(s.num_measured >= NEEDED_RUNS for c in history.cells for s in c.series):
            few = f"no series has {NEEDED_RUNS} values yet, so no step can be told from chance"
            self._print(few, "dim")

    def print_cell(self, trend: CellTrend) -> None:
        self._console.print()
        self._print(trend.name, "bold")
        for begin in trend.beginnings:
            run = self._history.runs[begin.position]
            changed = changes_text(begin.changes) or "what is not recorded"
            text = f"other conditions since {run_text(run)}: {changed}"
            self._print(text, "yellow", indent=2)
        quiet = []
        causes: set[str] = set()
        for series in trend.series:
            if self._is_shown(series):
                self._print_series(series, causes)
            elif series.newest:
                quiet.append(series)
        if quiet and self._metrics is None:
            self._print(f"quiet: {_levels_text(quiet)}", "dim", indent=2)

    def _is_shown(self, series: Series) -> bool:
        if self._metrics is None:
            return bool(series.shifts)
        return series.metric in self._metrics and (series.newest or bool(series.shifts))

    def _print_series(self, series: Series, causes: set[str]) -> None:
        """Print a series; a cause that was told of the cell already is not told again."""
        level = series.levels[-1].value if series.levels else None
        value = value_text(series.metric, level)
        line = sparkline(series)[-self._room :]
        when = "" if series.newest else "  (earlier conditions)"
        head = f"{metric_name(series.metric):<{_NAME_WIDTH}}{value:>{_VALUE_WIDTH - 2}}  "
        self._print(head + line + when, indent=2)
        for shift in series.shifts:
            style = {True: "green", False: "red", None: ""}[shift.better]
            style = "" if shift.kind is ChangeKind.ACCEPTED else style
            self._print(shift_text(shift, series, self._history.runs), style, indent=4)
            cause = cause_text(shift)
            if cause not in causes:
                self._print(cause, "dim", indent=6)
            causes.add(cause)

    def print_quiet(self, trends: Sequence[CellTrend]) -> None:
        if not trends:
            return
        self._console.print()
        self._print("quiet:")
        for trend in trends[:_MOST_QUIET]:
            newest = [series for series in trend.series if series.newest]
            text = f"{trend.name}: {_levels_text(newest) or 'never measured whole'}"
            self._print(text, "dim", indent=2)
        self.print_left_out(len(trends) - _MOST_QUIET, "more that are quiet")

    def print_left_out(self, count: int, what: str) -> None:
        if count > 0:
            text = f"and {count} {what}: narrow with --cell, or --format json"
            self._print(text, "dim", indent=2)


def _levels_text(series: Iterable[Series]) -> str:
    return ", ".join(
        f"{metric_name(each.metric)} {value_text(each.metric, each.levels[-1].value)}"
        for each in series
        if each.levels
    )
