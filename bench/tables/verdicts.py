"""Verdicts -> texts in readable units, for the terminal and as Markdown; knows no store."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from bench.compare import Difference
from bench.gate.night import Night
from bench.gate.pairs import content_changes
from bench.gate.values import FAMILIES, Metric, Row, Verdict
from bench.tables import scale
from bench.tables.consoles import text_console
from bench.tables.detectable import detectable_text, row_noise_text, size_text

RED = (Verdict.REGRESSED, Verdict.FAILED, Verdict.MISSING)
_ORDER = (
    *RED, Verdict.NOT_COMPARABLE, Verdict.INCONCLUSIVE, Verdict.FIXED, Verdict.IMPROVED,
    Verdict.NEW, Verdict.UNCHANGED,
)  # fmt: skip
_STYLES = {Verdict.NOT_COMPARABLE: "yellow", Verdict.INCONCLUSIVE: "yellow"}
_MEANINGS = {
    0: "nothing regressed, failed or is missing",
    1: "a regression was found",
    3: "cells failed or are missing",
    4: "something cannot be compared",
}
_QUIET = (Verdict.UNCHANGED, Verdict.INCONCLUSIVE)
_WIDEST_VALUE = 60


@dataclass(frozen=True)
class VerdictLine:
    """A row as texts; what does not apply is empty."""

    verdict: Verdict
    cell: str
    metric: str
    values: str
    effect: str
    adjusted_p: str
    detectable: str
    noise: str
    reason: str
    changes: str
    origin: str


_Value = Callable[[float], str]
METRIC_UNITS: dict[Metric, tuple[str, _Value]] = {
    Metric.ACCURACY: ("accuracy", lambda value: f"{scale.percent(value)}%"),
    Metric.MACRO_F1: ("macro-F1", lambda value: f"{scale.percent(value)}%"),
    Metric.NLL: ("NLL", lambda value: f"{value:.3f}"),
    Metric.TRAIN_RATE: ("train/s", scale.rate),
    Metric.INFER_RATE: ("infer/s", scale.rate),
    Metric.LATENCY: ("p50 latency", lambda value: f"{scale.milliseconds(value)} ms"),
    Metric.TRAIN_MEMORY: ("train memory", lambda value: f"{scale.megabytes(value)} MiB"),
    Metric.INFER_MEMORY: ("infer memory", lambda value: f"{scale.megabytes(value)} MiB"),
    Metric.HOST_MEMORY: ("host memory", lambda value: f"{scale.megabytes(value)} MiB"),
}
_POINTS = (Metric.ACCURACY, Metric.MACRO_F1)


def verdict_lines(night: Night) -> list[VerdictLine]:
    """Return every row as texts, red ones first, unchanged ones last."""
    rows = sorted(night.verdicts.rows, key=lambda row: _ORDER.index(row.verdict))
    return [_line(row, night) for row in rows]


def _line(row: Row, night: Night) -> VerdictLine:
    name, value = METRIC_UNITS[row.metric] if row.metric else ("cell", str)
    known = row.baseline is not None and row.candidate is not None
    return VerdictLine(
        verdict=row.verdict,
        cell=row.cell,
        metric=name,
        values=f"{value(row.baseline)} → {value(row.candidate)}" if known else "",  # type: ignore[arg-type]
        effect=_effect(row),
        adjusted_p="" if row.adjusted_p is None else f"{row.adjusted_p:.2g}",
        detectable=_detectable(row),
        noise=row_noise_text(row),
        reason="; ".join(row.reasons),
        changes=changes_text(row.changes),
        origin=night.candidate.origin(row.cell, row.metric),
    )


def _effect(row: Row) -> str:
    if row.effect is None or row.low is None or row.high is None:
        return ""
    values = (row.effect, row.low, row.high)
    if row.metric in _POINTS:
        effect, low, high = (f"{100 * each:+.1f}" for each in values)
        unit = " pt"
    elif row.metric is Metric.NLL:
        effect, low, high = (f"{each:+.3f}" for each in values)
        unit = ""
    else:
        effect, low, high = (f"{100 * (each - 1):+.1f}" for each in values)
        unit = "%"
    return f"{effect}{unit} [{low}, {high}]"


def _detectable(row: Row) -> str:
    if row.metric is None or row.detectable is None:
        return ""
    return size_text(row.detectable, FAMILIES[row.metric])


def changes_text(changes: Sequence[Difference]) -> str:
    """Return what changed as ``torch 2.14.0 → 2.14.1, …``; long digests are cut."""
    return ", ".join(
        f"{each.name} {_short(each.first)} → {_short(each.second)}" for each in changes
    )


def _short(value: str | None) -> str:
    if value is None:
        return "absent"
    return value if len(value) <= _WIDEST_VALUE else f"{value[:12]}…"


@dataclass(frozen=True)
class Replaced:
    """Content behind the same names that is another one since the baseline.

    Attributes:
        change: Which, from what to what.
        cells: Those that read it.
    """

    change: Difference
    cells: tuple[str, ...]

    @property
    def text(self) -> str:
        """Return it in one line, with the first of its cells."""
        more = f" and {len(self.cells) - 1} more" if len(self.cells) > 1 else ""
        return f"{changes_text([self.change])} ({self.cells[0]}{more})"


def replaced_contents(night: Night) -> list[Replaced]:
    """Return all replaced content, also that of cells in which nothing got worse by it."""
    after = {cell.cell: cell for cell in night.candidate.cells}
    found: dict[Difference, list[str]] = {}
    for old in night.baseline.cells:
        if old.cell in after:
            for change in content_changes(old, after[old.cell]):
                found.setdefault(change, []).append(old.cell)
    return [Replaced(change, tuple(cells)) for change, cells in found.items()]


def counts_text(night: Night) -> str:
    """Return how many rows have each verdict that occurs, the gravest first."""
    counts = night.verdicts.counts
    return ", ".join(
        f"{counts[verdict]} {verdict.value.replace('_', ' ')}"
        for verdict in _ORDER
        if counts[verdict]
    )


def outcome_text(night: Night) -> str:
    """Return the night's outcome in a sentence, with its exit code."""
    code = night.verdicts.exit_code
    return f"exit code {code}: {_MEANINGS[code]}"


def verdicts_text(night: Night, *, width: int, colour: bool = False, every: bool = False) -> str:
    """Return the table for a terminal; rows that tell of no change are counted, or all are shown.

    Args:
        night: What was judged.
        width: Columns of the terminal.
        colour: Whether escape sequences are written.
        every: Also show rows that are unchanged or inconclusive.
    """
    console, file = text_console(width, colour=colour)
    sides = night.baseline, night.candidate
    for label, side in zip(("baseline ", "candidate"), sides, strict=True):
        console.print(f"{label}  {scale.printable(side.title)}, measured {side.when}", markup=False)
    lines = verdict_lines(night)
    for line in lines:
        if every or line.verdict not in _QUIET:
            _print_line(console, line)
    console.print()
    console.print(counts_text(night) or "no cell on either side", markup=False)
    for told in _endings(night):
        console.print(scale.printable(told), markup=False)
    console.print(outcome_text(night), style="bold")
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def _endings(night: Night) -> list[str]:
    """Return what is said of the night as a whole, below its rows."""
    replaced = [f"Content replaced since the baseline: {r.text}" for r in replaced_contents(night)]
    changed = changes_text(night.changes)
    versions = [f"Versions changed since the baseline: {changed}"] if changed else []
    detectable = [text] if (text := detectable_text(night)) else []
    return [*_undecided(night), *replaced, *versions, *detectable]


def _undecided(night: Night) -> list[str]:
    """Return, per metric, how many cells are inconclusive and what would tell at most."""
    rows: dict[Metric, list[Row]] = {}
    for row in night.verdicts.rows:
        if row.verdict is Verdict.INCONCLUSIVE and row.metric is not None:
            rows.setdefault(row.metric, []).append(row)
    return [
        f"Inconclusive: {METRIC_UNITS[metric][0]} of {_cells(len(own))}; {_would_tell(own)}"
        for metric, own in rows.items()
    ]


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count} cells"


def _would_tell(rows: Sequence[Row]) -> str:
    needs: dict[str, int] = {}
    for row in rows:
        if row.need is not None:
            needs[row.need.what] = max(row.need.count, needs.get(row.need.what, 0))
    told = [f"up to about {count} {what}" for what, count in needs.items()]
    others = dict.fromkeys(reason for row in rows if row.need is None for reason in row.reasons)
    would = [f"{' and '.join(told)} would tell"] if told else []
    return "; ".join([*would, *others])


def _print_line(console: Console, line: VerdictLine) -> None:
    style = "red" if line.verdict in RED else _STYLES.get(line.verdict, "green")
    head = f" {line.cell} · {line.metric}  {line.values}  {line.effect}".rstrip()
    found = f"  adjusted p {line.adjusted_p}, detectable {line.detectable}" if line.effect else ""
    found += f", noise {line.noise}" if line.noise else ""
    verdict = f"{line.verdict.value.replace('_', ' '):<14}"
    console.print(Text.assemble((verdict, style), scale.printable(head), (found, "dim")))
    for label, text in (("why", line.reason), ("changed", line.changes), ("origin", line.origin)):
        if text and line.verdict is not Verdict.UNCHANGED:
            console.print(Text(f"    {label}: {scale.printable(text)}", "dim"))


def verdicts_markdown(night: Night, *, every: bool = False) -> str:
    """Return a job summary: outcome, counts, what is not unchanged, what changed and could show."""
    head = ("verdict", "cell", "metric", "baseline → candidate", "effect", "adj. p", "detectable")
    columns = (*head, "why, what changed, origin")
    lines = [
        f"## bench: {outcome_text(night)}",
        "",
        f"{_markdown(night.baseline.title)} ({night.baseline.when}) against "
        f"{_markdown(night.candidate.title)} ({night.candidate.when}): {counts_text(night)}.",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + " --- |" * len(columns),
    ]
    for line in verdict_lines(night):
        if every or line.verdict not in _QUIET:
            noise = line.noise and f"noise {line.noise}"
            told = "; ".join(t for t in (line.reason, line.changes, noise, line.origin) if t)
            cells = (
                line.verdict.value, line.cell, line.metric, line.values, line.effect,
                line.adjusted_p, line.detectable, told,
            )  # fmt: skip
            lines.append("| " + " | ".join(_markdown(cell) for cell in cells) + " |")
    for told in _endings(night):
        lines += ["", f"{_markdown(told)}."]
    return "\n".join(lines) + "\n"


def _markdown(text: str) -> str:
    escaped = scale.printable(text)
    for sign in "\\|<*_`[":
        escaped = escaped.replace(sign, "&lt;" if sign == "<" else f"\\{sign}")
    return escaped
