"""A spec of a table -> its files, parts and columns, from names alone; reads no row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.datasets.columns import (
    TABLE_SUFFIXES,
    read_column_names,
    read_parquet_schema,
    require_column,
    table_format,
)
from bench.datasets.parts import PART_NAMES
from bench.datasets.places import named_place
from bench.errors import DatasetError
from bench.interfaces import Modality
from bench.spec import DatasetSpec

INPUTS: tuple[Modality, ...] = ("text", "image", "audio")
"""Fields of a spec that name the input's column; a column of such a name is found by itself."""


@dataclass(frozen=True)
class TableLayout:
    """Where the parts of a table dataset are, and which columns make its examples.

    Attributes:
        root: Folder of the table: paths in its cells are relative to it.
        files: By part; ``train`` alone where a split column tells the parts apart.
        input: Column of the texts, images or clips.
        split: Column that holds the part of each row, or None.
        embedded: Whether the input's column holds bytes rather than text or paths.
    """

    root: Path
    files: Mapping[str, Path]
    modality: Modality
    input: str
    label: str
    split: str | None
    embedded: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns to read."""
        return (self.input, self.label, *([self.split] if self.split else []))


def find_layout(spec: DatasetSpec) -> TableLayout:
    """Return files and columns of ``table:<file>`` or ``table:<folder>``.

    A folder holds a file for each part, by name: ``train.csv``, ``test.csv``, …. Columns that the
    spec does not name are found where they are called ``label``, ``split``, and one of ``text``,
    ``image`` and ``audio``.

    Raises:
        DatasetError: A file or column is not there, or cannot be told from others.
    """
    path = Path(named_place(spec.name, "table:", "table:~/data/reviews.csv")).expanduser()
    files = _folder_parts(path, spec) if path.is_dir() else _file_parts(path, spec)
    root = path if path.is_dir() else path.parent
    names = read_column_names(files["train"])
    modality, column = _choose_input(files["train"], spec, names)
    layout = TableLayout(
        root=root,
        files=files,
        modality=modality,
        input=column,
        label=_choose_label(files["train"], spec, names),
        split=_choose_split(spec, names) if len(files) == 1 else None,
    )
    if spec.split and len(files) > 1:
        raise DatasetError(f"{root} holds {', '.join(files)} as files: drop split.")
    for file in files.values():
        known = read_column_names(file)
        for name in layout.columns:
            require_column(file, name, known)
    return replace(layout, embedded=_is_embedded(layout))


def conflicting_selectors(spec: DatasetSpec) -> str | None:
    """Return which fields of a spec cannot stand together, whatever the files, or None."""
    inputs = [name for name in INPUTS if getattr(spec, name)]
    if len(inputs) > 1:
        return f"{' and '.join(inputs)} each name the input's column: keep one of them"
    if spec.split and (spec.val or spec.test):
        return "split and separate files both say which part a row belongs to: keep one of them"
    if spec.val and spec.val == spec.test:
        return f"'{spec.val}' is named for both val and test. Give each its own"
    return None


def _is_embedded(layout: TableLayout) -> bool:
    """Return whether inputs are bytes, which only parquet can hold; all files must agree."""
    found = {file.name: _holds_bytes(file, layout.input) for file in layout.files.values()}
    if len(set(found.values())) > 1:
        kinds = (f"{'bytes' if each else 'text'} in {name}" for name, each in found.items())
        raise DatasetError(
            f"{layout.root}: column '{layout.input}' holds {' and '.join(kinds)}. "
            "Save all parts alike."
        )
    embedded = any(found.values())
    if embedded and layout.modality == "text":
        raise DatasetError(
            f"{layout.files['train']}: column '{layout.input}' holds bytes, not text. Name it with "
            "image: or audio: if that is what it holds."
        )
    return embedded


def _holds_bytes(file: Path, column: str) -> bool:
    if table_format(file) != ".parquet":
        return False
    from pyarrow import types

    kind = read_parquet_schema(file).field(column).type
    if types.is_dictionary(kind):
        kind = kind.value_type
    forms = (types.is_struct, types.is_binary, types.is_large_binary, types.is_fixed_size_binary)
    return any(is_form(kind) for is_form in (*forms, types.is_binary_view))


def _file_parts(path: Path, spec: DatasetSpec) -> dict[str, Path]:
    """Return the file of each part; val and test are relative to the folder of train."""
    named = {"train": path}
    named |= {part: path.parent / Path(name).expanduser() for part, name in _separate(spec)}
    for file in named.values():
        table_format(file)
    resolved: dict[Path, str] = {}
    for part, file in named.items():
        twin = resolved.setdefault(file.resolve(), part)
        if twin != part:
            raise DatasetError(f"{file} is named for both {twin} and {part}. Give each its own.")
    return named


def _separate(spec: DatasetSpec) -> list[tuple[str, str]]:
    return [(part, name) for part, name in (("val", spec.val), ("test", spec.test)) if name]


def _folder_parts(folder: Path, spec: DatasetSpec) -> dict[str, Path]:
    if spec.val or spec.test:
        raise DatasetError(
            f"{folder} is a folder, whose tables are found by their names: drop val and test, or "
            "give the path of the train table."
        )
    parts: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        part = PART_NAMES.get(file.stem.lower())
        if part is None or file.suffix.lower() not in TABLE_SUFFIXES or not file.is_file():
            continue
        if part in parts:
            raise DatasetError(
                f"{folder} holds two tables for {part}: {parts[part].name} and {file.name}. "
                "Keep one."
            )
        parts[part] = file
    if "train" not in parts:
        raise DatasetError(
            f"{folder} holds no table named train. Name its tables train, val and test with one "
            f"of {', '.join(TABLE_SUFFIXES)}, or give the path of a file."
        )
    return {part: parts[part] for part in ("train", "val", "test") if part in parts}


def _choose_input(file: Path, spec: DatasetSpec, names: Sequence[str]) -> tuple[Modality, str]:
    for modality in INPUTS:
        column = getattr(spec, modality)
        if column:
            return modality, column
    found = [modality for modality in INPUTS if modality in names]
    if len(found) == 1:
        return found[0], found[0]
    what = f"has the columns {' and '.join(found)}" if found else "has no column text, image, audio"
    raise DatasetError(
        f"{file} {what}: say which one is the input with text:, image: or audio:. "
        f"Known: {', '.join(names)}."
    )


def _choose_label(file: Path, spec: DatasetSpec, names: Sequence[str]) -> str:
    if spec.label_column:
        return spec.label_column
    if "label" in names:
        return "label"
    raise DatasetError(
        f"{file} has no column 'label': say which one holds the classes with label:. "
        f"Known: {', '.join(names)}."
    )


def _choose_split(spec: DatasetSpec, names: Sequence[str]) -> str | None:
    return spec.split or ("split" if "split" in names else None)
