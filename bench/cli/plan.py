"""`bench plan`: what a run would do, and whether this machine has all it takes."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.collector import collector_paused

if TYPE_CHECKING:
    from bench.interfaces import Missing
    from bench.spec import Cell
    from bench.survey import CellSurvey

_EXIT_MISSING = 3
_MOST_FOLDED = 500
_COLUMNS = ("backbone", "dataset", "strategy", "seed", "state", "estimate")


@collector_paused()
def plan(
    suite: Annotated[Path, typer.Argument(help="a suite file, e.g. suites/vision.yaml")],
    only: Annotated[
        str | None, typer.Option(help="cells whose label, or a part of it, matches this")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="of the suite's seeds, e.g. 0,1")] = None,
    store: Annotated[
        str | None, typer.Option(help="database of results; default: BENCH_STORE")
    ] = None,
) -> None:
    """Show the cells of a suite: which are measured, what must be downloaded, how long it takes."""
    from bench.environment import is_offline
    from bench.plan import pairs_apart, parse_seeds, plan_cells, select_cells
    from bench.suite import load_suite
    from bench.survey import find_blocking

    loaded = load_suite(suite)
    chosen = select_cells(
        plan_cells(loaded), only=only, seeds=None if seeds is None else parse_seeds(seeds)
    )
    surveys = _survey(chosen, loaded.name, store)
    blocking = find_blocking(surveys, offline=is_offline())
    _print_cells([_row(survey, blocking) for survey in surveys])
    print(_summarise(surveys))
    if apart := pairs_apart(loaded):
        print(
            f"{len(apart)} pairs of a backbone and a dataset left out: the one does not take what "
            "the other holds"
        )
    _print_lacks(surveys, blocking, suite)
    if blocking:
        raise typer.Exit(_EXIT_MISSING)


def _survey(cells: "Sequence[Cell]", suite: str, url: str | None) -> "tuple[CellSurvey, ...]":
    from bench.environment import device_class
    from bench.errors import StoreError
    from bench.executors.devices import choose_devices
    from bench.store import open_store
    from bench.survey import survey_cells

    try:
        store = open_store(url, create=False)
    except StoreError as error:
        # A plan needs no results; without them it says less, and why.
        print(f"note: {error}", file=sys.stderr)
        return survey_cells(cells)
    with store:
        run = store.latest_run(suite)
        held = store.ok_request_keys(run.id, device_class(choose_devices()[0])) if run else ()
        return survey_cells(cells, ok_request_keys=held, records=store.summaries())


def _row(survey: "CellSurvey", blocking: "Sequence[Missing]") -> tuple[str, ...]:
    from bench.tables.scale import duration

    cell = survey.cell
    if survey.measured:
        state = "measured"
    elif not survey.missing:
        state = "to run"
    else:
        state = "missing" if set(survey.missing) & set(blocking) else "to download"
    seconds = survey.estimated_seconds
    estimate = "" if survey.measured or seconds is None else duration(seconds)
    draw = cell.draw.removeprefix("seed ")
    names = (cell.backbone.label, cell.dataset.label, cell.strategy.name, draw)
    return (*names, state, estimate)


def _print_cells(rows: Sequence[tuple[str, ...]]) -> None:
    # A terminal folds long lines by itself, if less neatly, and thousands of them at once.
    if not sys.stdout.isatty() or len(rows) > _MOST_FOLDED:
        widths = [max(map(len, column)) for column in zip(_COLUMNS, *rows, strict=True)]
        for row in (_COLUMNS, *rows):
            line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
            print(line.rstrip())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def _summarise(surveys: "Sequence[CellSurvey]") -> str:
    from bench.tables.scale import duration

    waiting = [survey for survey in surveys if not survey.measured]
    known = [s.estimated_seconds for s in waiting if s.estimated_seconds is not None]
    text = f"{len(surveys)} cells: {len(surveys) - len(waiting)} measured, {len(waiting)} to run"
    if not known:
        return text
    basis = "" if len(known) == len(waiting) else f" for {len(known)} of them"
    return f"{text}, about {duration(sum(known))}{basis}"


def _print_lacks(
    surveys: "Sequence[CellSurvey]", blocking: "Sequence[Missing]", suite: Path
) -> None:
    lacks = dict.fromkeys(lack for s in surveys if not s.measured for lack in s.missing)
    coming = [lack for lack in lacks if lack not in blocking]
    if coming:
        _print_downloads(coming, suite)
    for lack in blocking:
        print(f"error: missing: {lack.what}. To get it: {lack.how}", file=sys.stderr)


def _print_downloads(lacks: "Sequence[Missing]", suite: Path) -> None:
    """List what a run would download, with sizes as far as they are known or can be asked for."""
    from bench.tables.scale import megabytes

    sizes = _sizes(lacks)
    for lack, size in zip(lacks, sizes, strict=True):
        extent = "size unknown" if size is None else f"{megabytes(size)} MiB"
        print(f"to download: {lack.what} ({extent}), by the run itself or so: {lack.how}")
    known = [size for size in sizes if size is not None]
    unknown = len(sizes) - len(known)
    more = f", and {unknown} of unknown size" if unknown else ""
    print(
        f"{len(sizes)} to download, {megabytes(sum(known))} MiB in all{more}. "
        f"Ahead of a run: bench fetch {shlex.quote(str(suite))}"
    )


def _sizes(lacks: "Sequence[Missing]") -> "list[int | None]":
    origins = {lack.origin for lack in lacks if lack.num_bytes is None and lack.origin is not None}
    if not origins:
        return [lack.num_bytes for lack in lacks]
    from bench.transfer.sizes import measure_sizes

    asked = measure_sizes(origins)
    return [
        asked.get(lack.origin) if lack.num_bytes is None and lack.origin else lack.num_bytes
        for lack in lacks
    ]
