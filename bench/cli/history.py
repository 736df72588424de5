"""``bench history``: what became of a suite from run to run; steps with their runs and causes."""

import shutil
import sys
from dataclasses import replace
from typing import Annotated

import typer

from bench.collector import collector_paused
from bench.errors import UsageError

_FORMATS = ("table", "json", "csv")
_WIDTH_OF_LOGS = 120


@collector_paused()
def history(
    suite: Annotated[str, typer.Argument(help="Name of a suite.")],
    metric: Annotated[
        str | None,
        typer.Option(help="Columns to show line by line, comma between; all. Else what changed."),
    ] = None,
    cell: Annotated[str | None, typer.Option(help="Cells of this name, glob or piece.")] = None,
    last: Annotated[int, typer.Option(min=1, help="Show so many of the newest runs.")] = 60,
    form: Annotated[str, typer.Option("--format", "-f", help="table, json or csv.")] = "table",
    store: Annotated[str | None, typer.Option(help="Database: file name or URL.")] = None,
) -> None:
    """Show the level of every cell and metric, each step with its run, and what changed there.

    A spike is no step: a change counts once three runs in a row confirm it. Accept a level with
    bench baseline accept.
    """
    from bench.gate.chronicle import read_history
    from bench.gate.naming import parse_metrics, select_cells
    from bench.gate.trends import latest_runs
    from bench.store import open_store
    from bench.tables.history import history_text
    from bench.tables.history_files import history_csv, history_json

    metrics = None if metric is None else parse_metrics(metric)
    if form not in _FORMATS:
        raise UsageError(f"unknown format '{form}'. Known: {', '.join(_FORMATS)}")
    with open_store(store, create=False) as opened:
        opened.check_suite(suite)
        found = read_history(opened, suite)
    for problem in found.problems:
        print(f"warning: {problem}", file=sys.stderr)
    chosen = select_cells([trend.name for trend in found.cells], cell, f"suite '{suite}'")
    cells = tuple(trend for trend in found.cells if trend.name in chosen)
    shown = latest_runs(replace(found, cells=cells), last)
    if form == "json":
        print(history_json(shown, metrics), end="")
    elif form == "csv":
        print(history_csv(shown, metrics), end="")
    else:
        width = shutil.get_terminal_size((_WIDTH_OF_LOGS, 24)).columns
        colour = sys.stdout.isatty()
        print(history_text(shown, width=width, colour=colour, metrics=metrics), end="")
