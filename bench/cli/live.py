"""How a sweep goes, on the terminal or as plain lines; knows no store and no executor."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bench.record import Progress, Recalled, Record, Status
from bench.spec import Cell
from bench.sweep import SweepObserver
from bench.tables import scale
from bench.tables.labels import label_cells

_REFRESHES_PER_SECOND = 2
"""The cells being measured share the cores with this display."""

_STYLES = {Status.OK: "green", Status.DIVERGED: "yellow", Status.TIMEOUT: "yellow"}

Clock = Callable[[], float]


@contextmanager
def watch(
    console: Console, *, jobs: int, estimates: Mapping[Cell, float | None]
) -> Iterator[SweepObserver]:
    """Show a sweep until the block ends: live on a terminal, else one line per finished cell.

    Args:
        console: Where to.
        jobs: Cells that run at once.
        estimates: Seconds a cell may take, from earlier runs.
    """
    pace = Pace(jobs, estimates)
    if not console.is_terminal or console.is_dumb_terminal:
        yield PlainLines(console, pace)
        return
    display = LiveDisplay(console, pace)
    with Live(
        get_renderable=display.render,
        console=console,
        refresh_per_second=_REFRESHES_PER_SECOND,
        transient=True,
    ):
        yield display


class Pace:
    """What is done, what runs, and how long the rest may take.

    Attributes:
        num_done: Cells with a result, of this sweep.
        total: Cells that this sweep will run.
    """

    def __init__(
        self,
        jobs: int,
        estimates: Mapping[Cell, float | None],
        *,
        clock: Clock = time.monotonic,
    ) -> None:
        self.num_done = 0
        self.total = 0
        self._clock = clock
        self._jobs = jobs
        self._estimates = estimates
        self._began = clock()
        self._todo: dict[Cell, float | None] = {}
        self._seconds: dict[tuple[str, ...], list[float]] = defaultdict(list)

    def plan(self, cells: Sequence[Cell]) -> None:
        """Take the cells to run."""
        self.total = len(cells)
        self._todo = dict.fromkeys(cells)

    def start(self, cell: Cell) -> None:
        """Note that a cell runs from now."""
        self._todo[cell] = self._clock()

    def finish(self, cell: Cell, result: Record | Recalled) -> None:
        """Note that a cell has ended, and how long it took if it was measured to its end."""
        self._todo.pop(cell, None)
        self.num_done += 1
        if isinstance(result, Record) and result.status is Status.OK:
            for likeness in _likenesses(cell):
                self._seconds[likeness].append(result.wall_seconds)

    def elapsed(self, cell: Cell | None = None) -> float:
        """Return seconds since the sweep or a running cell began."""
        started = None if cell is None else self._todo.get(cell)
        return self._clock() - (self._began if started is None else started)

    def seconds_left(self) -> float | None:
        """Return the seconds the rest may take, None while nothing is known of some cell of it.

        A cell is expected to take what it took before, or what cells like it took in this sweep.
        """
        total = 0.0
        # A copy, made at once: the display's thread asks while cells end.
        for cell, started in tuple(self._todo.items()):
            expected = self._expected(cell)
            if expected is None:
                return None
            total += expected if started is None else max(0.0, expected - self.elapsed(cell))
        return total / min(self._jobs, max(1, len(self._todo)))

    def _expected(self, cell: Cell) -> float | None:
        known = self._estimates.get(cell)
        if known is not None:
            return known
        seen = (self._seconds.get(likeness) for likeness in _likenesses(cell))
        return next((fmean(values) for values in seen if values), None)


def _likenesses(cell: Cell) -> tuple[tuple[str, ...], ...]:
    backbone, dataset, strategy = cell.backbone.label, cell.dataset.label, cell.strategy.name
    return (backbone, dataset, strategy), (dataset, strategy), (backbone, strategy), (strategy,), ()


def name_cells(cells: Sequence[Cell]) -> dict[Cell, str]:
    """Return one line per cell, no two alike: variants of a strategy say in what they differ."""
    return {
        cell: f"{label.backbone} · {label.dataset} · {label.strategy} · {cell.draw}"
        for cell, label in zip(cells, label_cells(cells), strict=True)
    }


def describe_result(name: str, result: Record | Recalled) -> Text:
    """Return one line on a finished cell: status, accuracy, name, seconds; a second says why not.

    Args:
        name: Of the cell that ran.
        result: Its record, or that the run held one.
    """
    if isinstance(result, Recalled):
        return Text(f"held            {name}: the run has it under the same key")
    accuracy = scale.percent(result.test.accuracy) + "%" if result.test else scale.ABSENT
    line = Text.assemble(
        (f"{result.status.value:<8}", _STYLES.get(result.status, "red")),
        f" {accuracy:>6}  {name}  ",
        (scale.duration(result.wall_seconds), "dim"),
    )
    if result.failure is not None:
        where = f" in {result.failure.phase}" if result.failure.phase else ""
        line.append(f"\n           {result.failure.kind}{where}: {result.failure.message}", "dim")
    return line


def describe_progress(progress: Progress) -> str:
    """Return what a cell does now: phase, grid point, examples, bytes, epoch, accuracy on val."""
    parts = [progress.phase.replace("_", " ")]
    if progress.grid_point is not None and (progress.num_grid_points or 0) > 1:
        parts.append(f"setting {progress.grid_point}/{progress.num_grid_points}")
    if progress.num_done is not None and progress.num_total is not None:
        parts.append(f"{progress.num_done:,} of {progress.num_total:,}")
    if progress.item is not None:
        parts.append(progress.item)
    if progress.num_bytes is not None:
        parts.append(scale.extent(progress.num_bytes, progress.total_bytes))
    if progress.epoch is not None:
        of = f"/{progress.num_epochs}" if progress.num_epochs is not None else ""
        parts.append(f"epoch {progress.epoch}{of}")
    if progress.val_accuracy is not None:
        parts.append(f"val {scale.percent(progress.val_accuracy)}%")
    return " · ".join(parts)


def _describe_rest(seconds: float | None) -> str:
    if seconds is None:
        return "time left not known yet"
    return f"about {scale.duration(seconds)} left" if seconds >= 1 else "nearly done"


def _describe_plan(total: int, num_held: int) -> str:
    held = f"; {num_held} held from before" if num_held else ""
    return f"{total} {'cell' if total == 1 else 'cells'} to run{held}"


@dataclass
class PlainLines:
    """One line per finished cell, written at once, for logs."""

    console: Console
    pace: Pace
    names: dict[Cell, str] = field(default_factory=dict)

    def planned(self, pending: Sequence[Cell], num_held: int) -> None:
        """Say how many cells will run."""
        self.names = name_cells(pending)
        self.pace.plan(pending)
        self._say(Text(_describe_plan(len(pending), num_held)))

    def progressed(self, cell: Cell, progress: Progress) -> None:
        """Note a start; steps on the way are for live displays."""
        if progress.phase == "start":
            self.pace.start(cell)

    def finished(self, cell: Cell, result: Record | Recalled) -> None:
        """Say how a cell ended."""
        self.pace.finish(cell, result)
        count = f"[{self.pace.num_done}/{self.pace.total}] "
        self._say(Text.assemble(count, describe_result(self.names[cell], result)))

    def warned(self, message: str) -> None:
        """Say it on a line of its own."""
        self._say(Text(f"warning: {message}"))

    def _say(self, text: Text) -> None:
        self.console.print(text, soft_wrap=True)
        self.console.file.flush()


@dataclass
class LiveDisplay:
    """A bar with time left and a line per running cell; finished cells scroll away above."""

    console: Console
    pace: Pace
    names: dict[Cell, str] = field(default_factory=dict)
    _running: dict[Cell, Progress] = field(default_factory=dict)

    def planned(self, pending: Sequence[Cell], num_held: int) -> None:
        """Say how many cells will run."""
        self.names = name_cells(pending)
        self.pace.plan(pending)
        self.console.print(Text(_describe_plan(len(pending), num_held)))

    def progressed(self, cell: Cell, progress: Progress) -> None:
        """Keep what a running cell does now, with its last accuracy on val."""
        if progress.phase == "start":
            self.pace.start(cell)
        before = self._running.get(cell)
        if before is not None and before.phase == progress.phase and progress.val_accuracy is None:
            progress = progress.model_copy(update={"val_accuracy": before.val_accuracy})
        # Replaced whole: the display's thread may be walking over the old one.
        self._running = {**self._running, cell: progress}

    def finished(self, cell: Cell, result: Record | Recalled) -> None:
        """Print how a cell ended, above the bar."""
        self._running = {key: value for key, value in self._running.items() if key != cell}
        self.pace.finish(cell, result)
        self.console.print(describe_result(self.names[cell], result))

    def warned(self, message: str) -> None:
        """Print it above the bar."""
        self.console.print(Text(f"warning: {message}", "yellow"))

    def render(self) -> RenderableType:
        """Return the display as of now."""
        if not self.pace.total:
            return Text("")
        lines = Table.grid(padding=(0, 1), expand=True)
        lines.add_column(no_wrap=True, overflow="ellipsis", ratio=3)
        lines.add_column(no_wrap=True, overflow="ellipsis", ratio=2)
        lines.add_column(no_wrap=True, justify="right", min_width=6)
        for cell, progress in self._running.items():
            elapsed = scale.duration(self.pace.elapsed(cell))
            lines.add_row(Text(self.names[cell]), Text(describe_progress(progress)), Text(elapsed))
        return Group(lines, self._bar())

    def _bar(self) -> RenderableType:
        left = self.pace.seconds_left()
        rest = _describe_rest(left)
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=self.pace.total, completed=self.pace.num_done, width=30),
            Text(f"{self.pace.num_done}/{self.pace.total} cells"),
            Text(f"{scale.duration(self.pace.elapsed())} so far · {rest}", style="dim"),
        )
        return bar
