"""Findings, charts and the table -> one HTML file, through a template that escapes everything."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from bench.errors import UsageError
from bench.gate.night import Night
from bench.gate.trends import History
from bench.record import Record
from bench.report import charts, trends
from bench.report.axes import Axis, linear_axis, robust_floor
from bench.report.classes import class_tables
from bench.report.columns import COLUMNS
from bench.report.findings import (
    GainLine,
    Standing,
    accuracy,
    caveats,
    comparable_memory,
    comparable_rates,
    standings,
    strategy_gains,
)
from bench.report.gate import gate_section
from bench.report.lines import TableRow, table_lines
from bench.report.trends import trend_section
from bench.summary import RecordSummary, Status
from bench.tables import scale
from bench.tables.detectable import size_text
from bench.tables.labels import label_cells
from bench.tables.ranking import best_rows, tied_rows
from bench.tables.render import accuracy_text
from bench.tables.rows import COLUMNS as ROW_COLUMNS
from bench.tables.rows import Row, failed_cells, summarise

# A run of thousands of rows is read in its table; these keep the rest of the page to what leads.
_MOST_STRIPS = 12
_MOST_HIDDEN = 100
_MOST_CURVES = 40
_MOST_FAILURES = 200


@dataclass(frozen=True)
class Strip:
    """One row of a dataset's interval figure; positions in percent of its width.

    Attributes:
        first: Whether it is the best of its dataset or tied for best.
        inside: False where it lies so far below that it would flatten the rest.
    """

    row: Row
    low: float
    high: float
    middle: float
    first: bool
    inside: bool


@dataclass(frozen=True)
class Card:
    """The summary of one dataset.

    Attributes:
        hidden: Strips behind a click.
        num_further: Rows that only the results table shows.
    """

    standing: Standing
    strips: tuple[Strip, ...]
    hidden: tuple[Strip, ...]
    num_further: int
    axis_low: str
    axis_high: str


def write_report(
    records: Sequence[RecordSummary],
    directory: Path,
    *,
    suite: str,
    command: str,
    notes: Sequence[str] = (),
    night: Night | None = None,
    history: History | None = None,
    wholes: Sequence[Record] = (),
) -> Path:
    """Write ``index.html``: one file that needs no network, no other file and no script to be read.

    The same records give the same bytes.

    Args:
        records: Of one run, one per cell.
        directory: Made where it does not exist.
        suite: Its name, the title of the page.
        command: What measures this again.
        notes: More sentences a reader should know.
        night: The comparison with a baseline, where there was one.
        history: Of the suite; shown where it has two runs or more.
        wholes: Some whole records, one per dataset at least: what is said of classes is theirs.

    Returns:
        The file.

    Raises:
        UsageError: There are no records, or the folder cannot be written.
    """
    if not records:
        raise UsageError(f"suite '{suite}' has no records to report. Run: {command}")
    page = render_page(
        records,
        suite=suite,
        command=command,
        notes=notes,
        night=night,
        history=history,
        wholes=wholes,
    )
    path = directory / "index.html"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        partial.write_text(page, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    return path


def render_page(
    records: Sequence[RecordSummary],
    *,
    suite: str,
    command: str,
    notes: Sequence[str] = (),
    night: Night | None = None,
    history: History | None = None,
    wholes: Sequence[Record] = (),
) -> str:
    """Return the page's HTML; see `write_report`."""
    # jinja2 costs a tenth of a second that a finished suite need not pay.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("bench.report", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.globals |= {"scale": scale, "charts": charts, "accuracy_text": accuracy_text}
    environment.globals["size_text"] = size_text
    gate = None if night is None else gate_section(night)
    context = _context(records, list(notes)) | {"gate": gate}
    context["trends"] = None if history is None else trend_section(history)
    context["classes"] = class_tables(wholes)
    environment.globals["trend_size"] = trends
    return environment.get_template("page.html.j2").render(suite=suite, command=command, **context)


def _context(records: Sequence[RecordSummary], notes: list[str]) -> dict[str, Any]:
    from markupsafe import Markup

    rows = summarise(records)
    strategies = list(dict.fromkeys(row.strategy for row in sorted(rows, key=_strategy_order)))
    found = strategy_gains(rows)
    backbones, curves = _curves(records)
    failures = failed_cells(records)
    return {
        "style": Markup(_own("page.css")),
        "script": Markup(_own("page.js")),
        "data": Markup(json_for_script(_embedded(rows))),
        "num_ok": sum(record.status == Status.OK for record in records),
        "num_cells": len(records),
        "span": _span(records),
        "cards": [_card(standing, rows) for standing in standings(rows)],
        "columns": COLUMNS,
        "num_rows": len(rows),
        "lines": table_lines(_table(rows)),
        "datasets": _distinct(row.dataset for row in rows),
        "strategies": strategies,
        "statuses": _distinct(row.status for row in rows),
        "throughput": _cost_panels(rows, comparable_rates(rows), charts.THROUGHPUT, strategies),
        "memory": _cost_panels(rows, comparable_memory(rows), charts.MEMORY, strategies),
        "gains": found,
        "gain_strategies": [name for name in strategies if any(name in g.gains for g in found)],
        "has_losses": any(g.difference < 0 for line in found for g in line.gains.values()),
        "widest_gain": _widest_gain(found),
        "curves": curves,
        "curve_backbones": backbones,
        "failures": failures[:_MOST_FAILURES],
        "num_failures": len(failures),
        "caveats": [*caveats(records, rows), *notes],
        "environments": _environments(records),
        "devices": _distinct(row.device for row in rows),
        "runs": _distinct(str(record.run_id) for record in records),
    }


def _embedded(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the rows with the name of each column once: thousands of rows are half as large."""
    return {"columns": ROW_COLUMNS, "rows": [list(vars(row).values()) for row in rows]}


def _own(name: str) -> str:
    return (files("bench.report") / "templates" / name).read_text(encoding="utf-8")


def json_for_script(value: Any) -> str:
    """Return JSON that cannot end the script element it stands in, whatever its strings hold."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\N{LINE SEPARATOR}\N{PARAGRAPH SEPARATOR}":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _distinct(values: Any) -> list[str]:
    return list(dict.fromkeys(value for value in values if value))


_KNOWN_ORDER = ("linear_probe", "partial", "full")


def _strategy_order(row: Row) -> tuple[int, str]:
    """Return the order of legends: cheapest adaptation first, then others by name."""
    name = row.strategy.partition(" (")[0]
    place = _KNOWN_ORDER.index(name) if name in _KNOWN_ORDER else len(_KNOWN_ORDER)
    return (place, row.strategy)


def _span(records: Sequence[RecordSummary]) -> str:
    moments = sorted(record.started_at.astimezone(UTC) for record in records)
    first, last = moments[0], moments[-1]
    if first.date() == last.date():
        return f"{first:%Y-%m-%d %H:%M}–{last:%H:%M} UTC"
    return f"{_minute(first)} to {_minute(last)} UTC"


def _minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


def _card(standing: Standing, rows: Sequence[Row]) -> Card:
    leader = standing.ranking.leader
    group = [
        row
        for row in rows
        if (row.suite, row.run_id, row.dataset) == (leader.suite, leader.run_id, leader.dataset)
        and row.test_accuracy_low is not None
    ]
    floor = robust_floor([accuracy(row) for row in group])
    inside = [row for row in group if accuracy(row) >= floor]
    ends = [end for row in inside for end in (row.test_accuracy_low, row.test_accuracy_high) if end]
    axis = linear_axis(ends, least=0.0, most=1.0)
    first = set(map(id, standing.ranking.all))
    strips = [_strip(row, axis, accuracy(row) >= floor, id(row) in first) for row in group]
    return Card(
        standing,
        tuple(strips[:_MOST_STRIPS]),
        tuple(strips[_MOST_STRIPS:_MOST_HIDDEN]),
        len(strips[_MOST_HIDDEN:]),
        scale.percent(axis.low),
        scale.percent(axis.high),
    )


def _strip(row: Row, axis: Axis, inside: bool, first: bool) -> Strip:
    ends = (row.test_accuracy_low, row.test_accuracy_high, row.test_accuracy)
    low, high, middle = (round(100 * axis.share(end or 0.0), 2) for end in ends)
    return Strip(row, low, high, middle, first, inside)


def _table(rows: Sequence[Row]) -> list[TableRow]:
    places: dict[int, Literal["best", "tied"]] = {id(row): "best" for row in best_rows(rows)}
    places |= {id(row): "tied" for row in tied_rows(rows)}
    known: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row.test_accuracy:
            known[row.dataset].append(row.test_accuracy)
    # One far-off control must not give all others one shade.
    scales = {
        name: (max(min(values), robust_floor(values)), max(values))
        for name, values in known.items()
    }
    return [
        TableRow(row, _heat(row, scales.get(row.dataset)), places.get(id(row), "")) for row in rows
    ]


def _heat(row: Row, ends: tuple[float, float] | None) -> float | None:
    if row.test_accuracy is None or ends is None:
        return None
    low, high = ends
    return 1.0 if high == low else max(0.0, (row.test_accuracy - low) / (high - low))


def _cost_panels(
    rows: Sequence[Row], comparable: Sequence[Row], cost: charts.CostAxis, strategies: Sequence[str]
) -> dict[str, Any]:
    panels = [
        charts.cost_panel(
            dataset, [row for row in comparable if row.dataset == dataset], cost, strategies
        )
        for dataset in _distinct(row.dataset for row in rows)
    ]
    measured = sum(bool(cost.value(row)) for row in rows)
    first = comparable[0] if comparable else None
    return {
        "panels": [panel for panel in panels if panel is not None],
        "left_out": measured - len(comparable),
        "batch_size": first.infer_batch_size if first else None,
        "device": first.device if first else None,
        "kind": first.memory_kind if first else None,
    }


def _widest_gain(lines: Sequence[GainLine]) -> float:
    gains = [abs(gain.difference) for line in lines for gain in line.gains.values()]
    return max(gains, default=0.0) or 1.0


def _curves(records: Sequence[RecordSummary]) -> tuple[list[str], list[charts.Panel]]:
    names = label_cells(record.cell for record in records)
    curves = [
        charts.Curve(name.dataset, name.strategy, name.backbone, record)
        for record, name in zip(records, names, strict=True)
        if len(record.curve) > 1
    ]
    groups: dict[tuple[str, str], list[charts.Curve]] = defaultdict(list)
    for curve in curves:
        groups[curve.dataset, curve.strategy].append(curve)
    drawn = {names: charts.highest(group, _MOST_CURVES) for names, group in sorted(groups.items())}
    backbones = sorted({curve.backbone for group in drawn.values() for curve in group})
    panels = []
    for (dataset, strategy), group in drawn.items():
        total = len(groups[dataset, strategy])
        part = f", the {len(group)} highest of {total} cells" if len(group) < total else ""
        panels.append(charts.curve_panel(f"{dataset} · {strategy}{part}", group, backbones))
    return backbones, [panel for panel in panels if panel is not None]


def _environments(records: Sequence[RecordSummary]) -> list[dict[str, str]]:
    """Return each distinct environment as label -> text."""
    known: list[dict[str, str]] = []
    for record in records:
        env = record.environment
        if env is None:
            continue
        packages = ", ".join(f"{name} {env.packages[name]}" for name in sorted(env.packages))
        revision = env.git_revision or "not in git"
        described = {
            "Device": env.device_name,
            "Device class": env.device_class,
            "Driver, CUDA": f"{env.driver}, {env.cuda}" if env.driver else "",
            "Processor": f"{env.cpu}, {env.num_cores} cores",
            "Memory": f"{scale.megabytes(env.memory_bytes)} MiB",
            "Host": env.host,
            "Platform": f"{env.platform}, Python {env.python}",
            "Packages": packages,
            "Project": revision + (" with uncommitted changes" if env.git_dirty else ""),
        }
        kept = {label: text for label, text in described.items() if text}
        if kept not in known:
            known.append(kept)
    return known
