"""Rows -> csv, json, markdown, latex, parquet and the terminal; knows where nothing is printed."""

import csv
import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UsageError
from bench.record import Status
from bench.tables import scale
from bench.tables.ranking import best_rows, tied_rows
from bench.tables.rows import COLUMNS, Row


@dataclass(frozen=True)
class TextColumn:
    """A column of the tables that people read.

    Attributes:
        priority: Columns with the highest number are left out first where room is short.
        numeric: Whether it is aligned to the right.
    """

    title: str
    cell: Callable[[Row], str]
    priority: int = 0
    numeric: bool = True


def accuracy_text(row: Row) -> str:
    """Return the accuracy in percent, or the status of a row without one.

    Where a seed failed, how many did not is part of it.
    """
    if row.test_accuracy is None:
        return row.status
    text = scale.percent(row.test_accuracy)
    return text if row.status == Status.OK else f"{text} ({_seeds(row)} ok)"


def _seeds(row: Row) -> str:
    return str(row.num_seeds) if row.status == Status.OK else f"{row.num_seeds}/{row.num_cells}"


TEXT_COLUMNS = (
    TextColumn("backbone", lambda row: row.backbone, numeric=False),
    TextColumn("strategy", lambda row: row.strategy, numeric=False),
    TextColumn("acc %", accuracy_text),
    TextColumn("95%", lambda row: scale.interval(row.test_accuracy_low, row.test_accuracy_high), 1),
    TextColumn("rank", lambda row: scale.rank(row.rank_low, row.rank_high), 1),
    TextColumn("F1 %", lambda row: scale.percent(row.test_macro_f1), 7),
    TextColumn("train/s", lambda row: scale.rate(row.train_examples_per_second), 5),
    TextColumn("infer/s", lambda row: scale.rate(row.infer_examples_per_second), 3),
    TextColumn("p50 ms", lambda row: scale.milliseconds(row.latency_p50_seconds), 6),
    TextColumn("MiB", lambda row: scale.megabytes(row.infer_peak_memory_bytes), 4),
    TextColumn("time", lambda row: scale.duration(row.standalone_seconds), 2),
    TextColumn("seeds", _seeds, 8),
)
_DATASET = TextColumn("dataset", lambda row: row.dataset, numeric=False)


_BALANCED = TextColumn("bal. %", lambda row: scale.percent(row.test_balanced_accuracy), 1)
_TELLING_DIFFERENCE = 0.01


def text_columns(rows: Sequence[Row]) -> tuple[TextColumn, ...]:
    """Return the columns of the tables that people read, from backbone to seeds.

    Balanced accuracy is among them where it says something else than accuracy: where the two are
    more than a point apart in some row. On a test split with as many examples of each class they
    are the same number.
    """
    if not any(map(_is_imbalanced, rows)):
        return TEXT_COLUMNS
    place = next(at for at, column in enumerate(TEXT_COLUMNS) if column.title == "F1 %")
    return (*TEXT_COLUMNS[:place], _BALANCED, *TEXT_COLUMNS[place:])


def _is_imbalanced(row: Row) -> bool:
    plain, balanced = row.test_accuracy, row.test_balanced_accuracy
    if plain is None or balanced is None:
        return False
    return abs(plain - balanced) > _TELLING_DIFFERENCE


def to_csv(rows: Sequence[Row]) -> bytes:
    """Return every column in base units, unrounded; an absent value is an empty field."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(vars(row) for row in rows)
    return file.getvalue().encode()


def to_json(rows: Sequence[Row]) -> bytes:
    """Return a list of objects in base units, unrounded; an absent value is null."""
    return (json.dumps([vars(row) for row in rows], indent=2, ensure_ascii=False) + "\n").encode()


def to_markdown(rows: Sequence[Row]) -> bytes:
    """Return a table with the best of each dataset in bold, and rows tied for best in italics."""
    patterns = _patterns(rows, "**{}**", "*{}*")
    columns = (_DATASET, *text_columns(rows))
    lines = [
        _markdown_line([column.title for column in columns]),
        _markdown_line(["---:" if column.numeric else "---" for column in columns]),
    ]
    for row in rows:
        cells = [_escape_markdown(column.cell(row)) for column in columns]
        lines.append(_markdown_line(_marked(cells, columns, patterns.get(id(row)))))
    return ("\n".join(lines) + "\n").encode()


def _patterns(rows: Sequence[Row], best: str, tied: str) -> dict[int, str]:
    """Return how the accuracy of a row is written that is best, or tied for best."""
    return {id(row): best for row in best_rows(rows)} | {id(row): tied for row in tied_rows(rows)}


def _marked(cells: list[str], columns: Sequence[TextColumn], pattern: str | None) -> list[str]:
    index = next(i for i, column in enumerate(columns) if column.cell is accuracy_text)
    return [
        pattern.format(cell) if pattern and position == index else cell
        for position, cell in enumerate(cells)
    ]


def _markdown_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


_MARKDOWN_SPECIAL = "\\|*_`[]<>"


def _escape_markdown(text: str) -> str:
    return "".join("\\" + sign if sign in _MARKDOWN_SPECIAL else sign for sign in text)


_LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
}


def _escape_latex(text: str) -> str:
    return "".join(_LATEX_SPECIAL.get(sign, sign) for sign in text)


def to_latex(rows: Sequence[Row]) -> bytes:
    """Return a ``tabular`` for the booktabs package; bold and italics as in Markdown."""
    patterns = _patterns(rows, r"\textbf{{{}}}", r"\textit{{{}}}")
    columns = (_DATASET, *text_columns(rows))
    layout = "".join("r" if column.numeric else "l" for column in columns)
    lines = [rf"\begin{{tabular}}{{{layout}}}", r"\toprule"]
    lines += [_latex_line([_escape_latex(column.title) for column in columns]), r"\midrule"]
    for position, row in enumerate(rows):
        if position and row.dataset != rows[position - 1].dataset:
            lines.append(r"\midrule")
        cells = [_escape_latex(column.cell(row)) for column in columns]
        lines.append(_latex_line(_marked(cells, columns, patterns.get(id(row)))))
    return ("\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n").encode()


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def to_parquet(rows: Sequence[Row]) -> bytes:
    """Return every column in base units, unrounded, each of one type even where all is absent."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, _arrow_type(pa, name)) for name in COLUMNS])
    table = pa.Table.from_pylist([vars(row) for row in rows], schema=schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def _arrow_type(pa: Any, name: str) -> Any:
    annotation = str(Row.__annotations__[name])
    if "float" in annotation:
        return pa.float64()
    return pa.int64() if "int" in annotation else pa.string()


def to_terminal(rows: Sequence[Row]) -> bytes:
    """Return the terminal's table without colour, 100 columns wide."""
    from bench.tables.terminal import terminal_text

    return terminal_text(rows, (), width=100).encode()


FORMATS: dict[str, Callable[[Sequence[Row]], bytes]] = {
    "table": to_terminal,
    "csv": to_csv,
    "json": to_json,
    "markdown": to_markdown,
    "latex": to_latex,
    "parquet": to_parquet,
}


def render(rows: Sequence[Row], form: str) -> bytes:
    """Return the rows in a format, ready to be written to a file.

    Args:
        rows: In the order they shall appear.
        form: One of `FORMATS`.

    """
    return FORMATS[form](rows)


_SUFFIXES = {
    ".csv": "csv",
    ".json": "json",
    ".md": "markdown",
    ".tex": "latex",
    ".parquet": "parquet",
}


def format_for(asked: str | None, output: Path | None) -> str:
    """Return the format asked for, else what the file's name ends in, else ``table``.

    Raises:
        UsageError: There is no such format, or a binary one would go to the terminal.
    """
    form = asked or (_SUFFIXES.get(output.suffix.lower()) if output else None) or "table"
    if form not in FORMATS:
        raise UsageError(f"no table format '{form}'. Known: {', '.join(FORMATS)}.")
    if form == "parquet" and output is None and sys.stdout.isatty():
        raise UsageError("parquet is binary: name a file with -o results.parquet")
    return form


def write_output(path: Path, data: bytes) -> None:
    """Write a file, making its folder.

    Raises:
        UsageError: It cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
