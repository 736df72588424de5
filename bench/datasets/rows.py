"""Tables of a layout -> labelled rows by part; knows neither images nor classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

from bench.datasets.columns import read_columns
from bench.datasets.labels import read_class_names
from bench.datasets.layout import TableLayout
from bench.datasets.parts import PART_NAMES, PART_ORDER
from bench.datasets.raw import number_ids
from bench.errors import DatasetError


@dataclass(frozen=True)
class Row:
    """A row that has what an example needs.

    Attributes:
        id: File and number of the row, both the same whatever other rows are left out.
        file: The table it is in.
        position: Its number there, from 0.
        value: Of the input's column; None where that column holds bytes, which are not read here.
        label: Class name.
    """

    id: str
    file: Path
    position: int
    value: Any
    label: str


@dataclass(frozen=True)
class Rows:
    """The rows of a dataset.

    Attributes:
        parts: ``train`` always; ``val`` and ``test`` where there are any.
        incomplete: What a row that was left out lacks, by id.
    """

    parts: Mapping[str, Sequence[Row]]
    incomplete: Mapping[str, str]

    @property
    def total(self) -> int:
        """How many rows there are, those left out included."""
        return len(self.incomplete) + sum(map(len, self.parts.values()))


def read_rows(layout: TableLayout) -> Rows:
    """Return every row with an input, a label and, where a column tells it, a part.

    Raises:
        DatasetError: A table is damaged, a label is a list, or the split column holds something
            else than a part.
    """
    parts: dict[str, list[Row]] = {"train": []}
    incomplete: dict[str, str] = {}
    for part, file in layout.files.items():
        for row, lack, own_part in _read_file(layout, part, file):
            if lack:
                incomplete[row.id] = lack
            else:
                parts.setdefault(own_part, []).append(row)
    ordered = {part: parts[part] for part in PART_ORDER if part in parts}
    return Rows(parts=ordered, incomplete=incomplete)


def _read_file(layout: TableLayout, part: str, file: Path) -> list[tuple[Row, str, str]]:
    """Return each row of a file, what it lacks, and its part."""
    names = [name for name in layout.columns if name != layout.input or not layout.embedded]
    columns = read_columns(file, names)
    labels = read_class_names(columns[layout.label], column=layout.label, where=str(file))
    values = repeat(None) if layout.embedded else columns[layout.input]
    parts = [part] * len(labels)
    if layout.split:
        parts = _read_parts(columns[layout.split], layout.split, file)
    ids = number_ids(f"{_name_file(layout, part)}/", len(labels))
    return [
        (Row(ids[at], file, at, value, label or ""), _lack(layout, value, label, own), own)
        for at, (value, label, own) in enumerate(zip(values, labels, parts, strict=False))
    ]


def _lack(layout: TableLayout, value: Any, label: str | None, part: str) -> str:
    """Return what a row does not have, or nothing."""
    if not layout.embedded and not (isinstance(value, str) and value.strip()):
        return f"no {layout.modality}"
    if label is None:
        return "no label"
    return "" if part else "no split"


def _name_file(layout: TableLayout, part: str) -> str:
    """Return what ids begin with: the name of the file, or the part where two are called alike."""
    stems = [file.stem for file in layout.files.values()]
    return layout.files[part].stem if len(set(stems)) == len(stems) else part


def _read_parts(values: Sequence[Any], column: str, file: Path) -> list[str]:
    """Return the part of each row, empty where the column is."""
    texts = ["" if value is None else str(value).strip() for value in values]
    strangers = dict.fromkeys(text for text in texts if text and text.lower() not in PART_NAMES)
    if strangers:
        raise DatasetError(
            f"{file}: column '{column}' says which part a row belongs to, and holds "
            f"{', '.join(repr(text) for text in list(strangers)[:5])}. "
            f"Known: {', '.join(PART_NAMES)}. Rename them, or rename the column if it is another."
        )
    return [PART_NAMES.get(text.lower(), "") for text in texts]
