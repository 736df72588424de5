"""Records -> rows -> text and files, the only place that scales and rounds; knows no database."""

from bench.tables.ranking import best_rows, tied_rows
from bench.tables.render import FORMATS, format_for, render, write_output
from bench.tables.rows import FailedCell, Row, failed_cells, summarise

__all__ = [
    "FORMATS",
    "FailedCell",
    "Row",
    "best_rows",
    "failed_cells",
    "format_for",
    "render",
    "summarise",
    "tied_rows",
    "write_output",
]
