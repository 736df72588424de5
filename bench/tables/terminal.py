"""Rows -> a table for the terminal, one block per dataset, in as many columns as fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.record import Status
from bench.tables import scale
from bench.tables.consoles import text_console
from bench.tables.ranking import best_rows, tied_rows
from bench.tables.render import TextColumn, accuracy_text, text_columns
from bench.tables.rows import FailedCell, Row

_GAP = 2
_BEST, _TIED = "*", "="
_NAME_WIDTH = 28
_NARROWEST_NAME = 16
_WIDEST_TEXT = 30
_NARROWEST = 4
_MOST_FAILURES = 20
_MOST_ROWS = 500


def terminal_text(
    rows: Sequence[Row], failures: Sequence[FailedCell], *, width: int, colour: bool = False
) -> str:
    """Return the table with a block per dataset, and the failures with their reasons under it.

    The best of a dataset, or else the rows that are tied for best, are marked. Columns that do not
    fit are left out, the least telling first; long names wrap. Of a dataset the 500 most accurate
    rows are shown, and how many there are below.

    Args:
        rows: In the order they shall appear.
        failures: Cells to list under the table.
        width: Columns of the terminal.
        colour: Whether escape sequences are written.
    """
    console, file = text_console(width, colour=colour)
    marks = {id(row): _BEST for row in best_rows(rows)}
    marks |= {id(row): _TIED for row in tied_rows(rows)}
    columns = _columns_that_fit(rows, width)
    for (suite, run_id, dataset), block in groupby(rows, _block):
        console.print()
        members = list(block)
        title = f"{suite} · {dataset} · run {run_id}{_majority(members)}"
        console.print(_table(title, members[:_MOST_ROWS], columns, marks))
        if len(members) > _MOST_ROWS:
            more = f"… and {len(members) - _MOST_ROWS} more below these: bench table --format csv"
            console.print(more, style="dim")
    if rows:
        console.print()
        console.print(_legend(rows, columns, marks), style="dim")
    if failures:
        _print_failures(console, failures)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def _majority(rows: Sequence[Row]) -> str:
    known = [row.majority_accuracy for row in rows if row.majority_accuracy is not None]
    return f" · majority class {scale.percent(known[0])}%" if known else ""


def _block(row: Row) -> tuple[str, int, str]:
    return (row.suite, row.run_id, row.dataset)


@dataclass(frozen=True)
class _Sized:
    column: TextColumn
    width: int


def _columns_that_fit(rows: Sequence[Row], width: int) -> list[_Sized]:
    """Leave out the least telling columns, then narrow the names, until the rest fits."""
    name, *columns = [_Sized(column, _natural_width(column, rows)) for column in text_columns(rows)]
    wished = min(name.width, max(_NAME_WIDTH, width // 3))
    while wished + _total(columns) > width:
        least = max(columns, key=lambda sized: sized.column.priority)
        if least.column.priority == 0:
            break
        columns.remove(least)
    room = max(_NARROWEST_NAME, width - _total(columns))
    return [_Sized(name.column, min(name.width, room)), *columns]


def _natural_width(column: TextColumn, rows: Sequence[Row]) -> int:
    mark = len(_BEST) + 1 if column.cell is accuracy_text else 0
    widest = max(
        cell_len(column.title), *(cell_len(column.cell(row)) + mark for row in rows), _NARROWEST
    )
    # Names wrap: one long label of a variant must not cost every row its numbers.
    is_name = column.title == "backbone"
    return widest if column.numeric or is_name else min(widest, _WIDEST_TEXT)


def _total(columns: Sequence[_Sized]) -> int:
    return sum(sized.width + _GAP for sized in columns)


_Marks = Mapping[int, str]


def _table(title: str, rows: Sequence[Row], columns: Sequence[_Sized], marks: _Marks) -> Table:
    table = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, _GAP - 1, 0, 0),
    )
    for sized in columns:
        justify: Literal["right", "left"] = "right" if sized.column.numeric else "left"
        table.add_column(sized.column.title, justify=justify, overflow="fold", width=sized.width)
    for row in rows:
        cells = [_cell(sized.column, row, marks.get(id(row))) for sized in columns]
        table.add_row(*cells, style="" if row.status == Status.OK else "red")
    return table


def _cell(column: TextColumn, row: Row, mark: str | None) -> Text:
    text = scale.printable(column.cell(row))
    if column.cell is not accuracy_text:
        return Text(text)
    return Text(f"{text} {mark}", style="bold green") if mark else Text(f"{text}  ")


def _legend(rows: Sequence[Row], columns: Sequence[_Sized], marks: _Marks) -> Text:
    sizes = sorted({row.infer_batch_size for row in rows if row.infer_batch_size})
    titles = {sized.column.title for sized in columns}
    parts = _ranking_legend(rows, titles, set(marks.values()))
    if "bal. %" in titles:
        parts.append("bal.: mean recall of classes")
    if "infer/s" in titles and sizes:
        parts.append(f"infer/s at batch {', '.join(map(str, sizes))}")
    if "p50 ms" in titles:
        parts.append("p50 at batch 1, model only")
    if "MiB" in titles:
        kinds = sorted({row.memory_kind for row in rows if row.memory_kind})
        parts.append(f"MiB: inference peak, {' or '.join(kinds) or 'not measured'} memory")
    if "time" in titles:
        parts.append("time: per cell, as if it shared nothing")
    parts.append(f"{scale.ABSENT} not measured")
    return Text("; ".join(parts) + ".")


def _ranking_legend(rows: Sequence[Row], titles: set[str], marks: set[str]) -> list[str]:
    parts = []
    if _BEST in marks:
        parts.append(f"{_BEST} best: told apart from every other row of its dataset")
    if _TIED in marks:
        parts.append(f"{_TIED} tied for best: these data do not tell which")
    if "rank" in titles and any(row.rank_low is not None for row in rows):
        parts.append("rank: by accuracy, at 95% confidence")
    shown = " and ".join(name for name in ("95%", "rank") if name in titles)
    if shown and any(row.num_seeds == 1 for row in rows):
        parts.append(f"of one seed, {shown} cover other test examples, not other seeds")
    return parts


def _print_failures(console: Console, failures: Sequence[FailedCell]) -> None:
    console.print(Text(f"\n{len(failures)} not ok", style="bold"))
    for cell in failures[:_MOST_FAILURES]:
        where = f" in phase {cell.phase}" if cell.phase else ""
        name = f"{cell.backbone} · {cell.dataset} · {cell.strategy} · {cell.draw}"
        console.print(Text(f"  {cell.status}{where}: {scale.printable(name)}", style="red"))
        console.print(Text(f"      {scale.printable(cell.reason)}"))
        console.print(Text(f"      details: bench show {cell.key}", style="dim"))
    if len(failures) > _MOST_FAILURES:
        console.print(f"  … and {len(failures) - _MOST_FAILURES} more: bench report")
