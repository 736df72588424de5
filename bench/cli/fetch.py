"""`bench fetch`: everything a suite needs from the network, ahead of a run without one."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bench.downloads import Download, OnProgress
    from bench.record import Progress

_EXIT_MISSING = 3


def fetch(
    suite: Annotated[Path, typer.Argument(help="a suite file, e.g. suites/vision.yaml")],
    only: Annotated[
        str | None, typer.Option(help="for cells whose label, or a part of it, matches this")
    ] = None,
) -> None:
    """Download all weights and data of a suite, checked, so that a run needs no network.

    Exits with 3 when something could not be had; everything else is fetched all the same, and the
    same command again goes on where a download was cut off.
    """
    from bench.downloads import fetch_all, list_downloads
    from bench.plan import plan_cells, select_cells
    from bench.suite import load_suite
    from bench.tables.scale import duration, megabytes

    downloads = list_downloads(select_cells(plan_cells(load_suite(suite)), only=only))
    if not downloads:
        print("nothing to download: all of it is here")
        return
    failed = 0
    with _shown() as on_progress:
        for ended in fetch_all(downloads, on_progress):
            count = f"[{ended.position + 1}/{len(downloads)}]"
            if ended.error is None:
                extent = f"{megabytes(ended.num_bytes)} MiB  {duration(ended.seconds)}"
                print(f"{count} {downloads[ended.position].label}  {extent}", flush=True)
            else:
                failed += 1
                print(f"{count} error: {ended.error}", file=sys.stderr, flush=True)
    print(f"{len(downloads) - failed} of {len(downloads)} downloads are here")
    if failed:
        raise typer.Exit(_EXIT_MISSING)


@contextmanager
def _shown() -> "Iterator[OnProgress]":
    """Give what takes progress: a bar with bytes on a terminal, a line per start elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        yield _PlainStarts()
        return
    from rich import progress as bars

    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.DownloadColumn(binary_units=True),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(),
    )
    # Results on a standard output that is no terminal go there, not above the bar.
    bar = bars.Progress(
        *columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()
    )
    with bar as display:
        task = display.add_task("", total=None)

        def show(download: "Download", progress: "Progress") -> None:
            description = progress.item or download.label
            display.update(
                task,
                description=description,
                completed=progress.num_bytes or 0,
                total=progress.total_bytes,
            )

        yield show


class _PlainStarts:
    """Says once that a download begins, and how large it is."""

    def __init__(self) -> None:
        self._last: Download | None = None

    def __call__(self, download: "Download", progress: "Progress") -> None:
        from bench.tables.scale import megabytes

        if download != self._last:
            self._last = download
            total = progress.total_bytes
            extent = "" if total is None else f" ({megabytes(total)} MiB)"
            print(f"downloading {progress.item or download.label}{extent}", file=sys.stderr)
