"""``bench table``: the results, one row per backbone x dataset x strategy."""

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.collector import collector_paused

_FORMAT = "table, csv, json, markdown, latex or parquet; by default what FILE ends in, else table."


@collector_paused()
def table(
    suite: Annotated[str | None, typer.Argument(help="Suite; by default every one.")] = None,
    form: Annotated[str | None, typer.Option("--format", "-f", help=_FORMAT)] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write.")] = None,
    store: Annotated[str | None, typer.Option(help="Database: file name or URL.")] = None,
) -> None:
    """Print the results: quality with its interval, speed, memory, time."""
    from bench.store import load_summaries
    from bench.tables import failed_cells, format_for, render, summarise, write_output
    from bench.tables.terminal import terminal_text

    records = load_summaries(suite, url=store)
    rows = summarise(records)
    chosen = format_for(form, output)
    if output is not None:
        write_output(output, render(rows, chosen))
    elif chosen == "table":
        terminal = sys.stdout.isatty()
        width = shutil.get_terminal_size((100, 24)).columns
        print(terminal_text(rows, failed_cells(records), width=width, colour=terminal), end="")
    else:
        sys.stdout.buffer.write(render(rows, chosen))
