"""Rows -> the lines of the results table in HTML; knows nothing of the page around it.

Thousands of rows of thirty cells are most of a page and of the time to make it: the template
language would take several times as long.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape

from bench.report.columns import COLUMNS, Column
from bench.summary import Status
from bench.tables.render import accuracy_text
from bench.tables.rows import Row

_STARS = {
    "best": '<span class="star" title="best: told apart from every other row">★</span> ',
    "tied": '<span class="star" title="tied for best: these data do not tell which">☆</span> ',
    "": "",
}
_FILTERS = ("dataset", "strategy", "status")


@dataclass(frozen=True)
class TableRow:
    """A row of the results table.

    Attributes:
        heat: In [0, 1], its accuracy on its dataset's own scale.
        place: Whether it is the best of its dataset, or tied for best, or neither.
    """

    row: Row
    heat: float | None
    place: Literal["best", "tied", ""]


def table_lines(table: Iterable[TableRow]) -> Markup:
    """Return a ``tr`` per row with a cell per column; every text from a record is escaped."""
    return Markup("\n").join(Markup("".join(_line(line))) for line in table)


def _line(line: TableRow) -> list[str]:
    row = line.row
    failed = "" if row.status == Status.OK else ' class="failed"'
    names = "".join(f' data-{name}="{escape(getattr(row, name))}"' for name in _FILTERS)
    first, *others = COLUMNS
    head = f'<th scope="row"{_sort_value(first, row)}>{_backbone(row.backbone)}</th>'
    return [f"<tr{names}{failed}>", head, *(_cell(each, line) for each in others), "</tr>"]


def _cell(column: Column, line: TableRow) -> str:
    sort, text = _sort_value(column, line.row), escape(column.text(line.row))
    if column.text is accuracy_text:
        heat = "" if line.heat is None else f' style="--heat:{round(line.heat, 3)}"'
        return f'<td class="num heat"{sort}{heat}>{_STARS[line.place]}{text}</td>'
    kinds = " ".join(name for name in ("num" * column.numeric, "extra" * column.extra) if name)
    return f'<td class="{kinds}"{sort}>{text}</td>' if kinds else f"<td{sort}>{text}</td>"


def _sort_value(column: Column, row: Row) -> str:
    """Return what a number is sorted by; a word is sorted by itself."""
    value = column.value(row)
    if value is None:
        return ""
    # The table shows three digits, seven tell apart whatever is worth sorting.
    return f' data-v="{value:.7g}"' if column.numeric else ""


def _backbone(name: str) -> str:
    """Return a name that may break after its source."""
    source, slash, rest = name.partition("/")
    if not rest:
        return escape(name)
    return f'<span class="source">{escape(source + slash)}</span><wbr>{escape(rest)}'
