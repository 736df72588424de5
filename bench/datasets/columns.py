"""Files of rows -> named columns of values as written; knows no classes, splits or modalities.

CSV is read by the standard library, not by Arrow: values stay the text that they are (``01`` is not
1), a quoted text may span lines, and an error says on which line it is.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import DatasetError

if TYPE_CHECKING:
    from pyarrow import Schema

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
"""What tables are; case does not matter."""

_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def table_format(path: Path) -> str:
    """Return the suffix of a table that exists, in lower case.

    Raises:
        DatasetError: There is no such file, or it is none of `TABLE_SUFFIXES`.
    """
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise DatasetError(
            f"{path} is not a table by its name. Known: {', '.join(TABLE_SUFFIXES)}."
        )
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise DatasetError(f"{path} {what}. Give the path of a table.")
    return suffix


def read_column_names(path: Path) -> tuple[str, ...]:
    """Return the columns of a table: its header, or the keys of its first line of JSON.

    Raises:
        DatasetError: It is not a table, or names a column twice.
    """
    suffix = table_format(path)
    if suffix == ".parquet":
        names = tuple(read_parquet_schema(path).names)
    elif suffix == ".jsonl":
        names = tuple(next(_json_rows(path), {}))
    else:
        names = tuple(next(_csv_rows(path), ()))
    if not names:
        raise DatasetError(f"{path} is empty: it has no columns.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DatasetError(f"{path} has two columns named '{twice}'. Rename one.")
    return names


def require_column(path: Path, name: str, names: Sequence[str]) -> None:
    """Refuse a column that a table does not have.

    Raises:
        DatasetError: With the closest name and all names.
    """
    if name not in names:
        close = get_close_matches(name, names, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise DatasetError(f"{path} has no column '{name}'.{hint} Known: {', '.join(names)}.")


def read_columns(path: Path, names: Sequence[str]) -> dict[str, list[Any]]:
    """Return the values of some columns, all of the same length.

    Values of CSV are text; of JSON and parquet they are what these store, None where it is null or
    a line lacks the key.

    Raises:
        DatasetError: A column is not there, or the file is damaged; says on which line.
    """
    known = read_column_names(path)
    for name in names:
        require_column(path, name, known)
    suffix = table_format(path)
    if suffix == ".parquet":
        with parquet_errors(path):
            from pyarrow.parquet import read_table

            table = read_table(path, columns=list(dict.fromkeys(names)))
            return {name: table.column(name).to_pylist() for name in names}
    if suffix == ".jsonl":
        rows = list(_json_rows(path))
        return {name: [row.get(name) for row in rows] for name in names}
    positions = [known.index(name) for name in names]
    lines = _csv_rows(path)
    next(lines)
    chosen = [tuple(row[at] for at in positions) for row in lines]
    return {name: [row[at] for row in chosen] for at, name in enumerate(names)}


def read_parquet_schema(path: Path) -> Schema:
    """Return the Arrow schema of a parquet file; raises as `read_columns`."""
    with parquet_errors(path):
        from pyarrow.parquet import read_schema

        return read_schema(path)


@contextmanager
def parquet_errors(path: Path) -> Iterator[None]:
    """Turn what Arrow raises on a damaged file into a `DatasetError`."""
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError) as error:
        raise DatasetError(f"{path} cannot be read as parquet: {error}") from error


def _csv_rows(path: Path) -> Iterator[list[str]]:
    """Yield the header, its names without blanks around them, then rows of as many fields."""
    csv.field_size_limit(sys.maxsize)  # of the whole process: the standard library has no other
    with _open_text(path) as file:
        reader = csv.reader(file, delimiter=_DELIMITERS[path.suffix.lower()], strict=True)
        width = 0
        try:
            for row in reader:
                if not row:
                    continue
                if not width:
                    row = [name.strip() for name in row]
                    width = len(row)
                if len(row) != width:
                    raise DatasetError(
                        f"{path}:{reader.line_num}: {len(row)} fields where the header has "
                        f"{width}. Put quotes around a text that holds the delimiter."
                    )
                yield row
        except (csv.Error, UnicodeDecodeError) as error:
            raise _damaged(path, reader.line_num, error) from error


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    with _open_text(path) as file:
        number = 0
        try:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise DatasetError(
                        f"{path}:{number}: expected an object with one key per column, got "
                        f"{line.strip()[:40]}"
                    )
                yield row
        except UnicodeDecodeError as error:
            raise _damaged(path, number + 1, error) from error
        except ValueError as error:
            raise _damaged(path, number, error) from error


@contextmanager
def _open_text(path: Path) -> Iterator[Any]:
    """Open UTF-8 text, with or without the mark that spreadsheets put at its start."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}.") from error


def _damaged(path: Path, line: int, error: Exception) -> DatasetError:
    if isinstance(error, UnicodeDecodeError):
        return DatasetError(
            f"{path} is not UTF-8 text after line {line}: byte {error.object[error.start]:#04x}. "
            "Save it as UTF-8."
        )
    return DatasetError(f"{path}:{line}: {error}. Repair that line.")
