"""``table:<csv|tsv|jsonl|parquet>``: labelled texts, images or clips in rows; draws no split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bench.datasets.extras import READERS, missing_extra
from bench.datasets.labels import index_classes
from bench.datasets.layout import TableLayout, conflicting_selectors, find_layout
from bench.datasets.parts import conflicting_request
from bench.datasets.raw import assemble_dataset, refuse_corrupt
from bench.datasets.rows import Row, read_rows
from bench.datasets.texts import text_examples
from bench.digests import stamp_files
from bench.errors import DatasetError
from bench.interfaces import Examples, Located, Missing, Modality, RawDataset
from bench.spec import DatasetSpec

if TYPE_CHECKING:
    import numpy as np

    from bench.artifacts import ArtifactCache
    from bench.datasets.files import ImageFile

_Parts = Mapping[str, Sequence[Row]]
_Labels = Mapping[str, "np.ndarray"]


class TableSource:
    """``table:~/data/reviews.csv``: see `find_layout` for files and columns."""

    prefix: ClassVar[str] = "table"
    selectors: ClassVar[tuple[str, ...]] = (
        *("text", "image", "audio", "label", "split", "val", "test"),
    )

    def names(self) -> Sequence[str]:
        """Return nothing: any path is a name."""
        return ()

    def modality(self, spec: DatasetSpec) -> Modality | None:
        """Return what the examples are; None where the table cannot be used."""
        try:
            return find_layout(spec).modality
        except DatasetError:
            return None

    def check(self, spec: DatasetSpec) -> str | None:
        """Return what is wrong with the spec, the files or their columns, or None."""
        if problem := conflicting_request(spec) or conflicting_selectors(spec):
            return problem
        try:
            layout = find_layout(spec)
        except DatasetError as error:
            return str(error)
        return missing_extra(layout.modality)

    def locate(self, spec: DatasetSpec) -> Located:
        """Return the tables and the files they list; a table that cannot be used is missing."""
        try:
            layout = find_layout(spec)
            listed = _listed_paths(layout)
        except DatasetError as error:
            lack = Missing(f"data of {spec.name}", str(error), downloadable=False)
            return Located(missing=(lack,))
        packages = ("pyarrow", *READERS[layout.modality])
        return Located(files=(*layout.files.values(), *listed), packages=packages)

    def load(self, spec: DatasetSpec, cache: ArtifactCache) -> RawDataset:
        """Return the rows that have an input and a label; others count as corrupt.

        Raises:
            DatasetError: A table is damaged, a label is a list or one that train lacks, or more is
                corrupt than the spec allows.
        """
        layout = find_layout(spec)
        rows, where = read_rows(layout), str(layout.files["train"])
        refuse_corrupt(where, rows.incomplete, rows.total, spec.max_corrupt_fraction)
        names = {part: [row.label for row in listed] for part, listed in rows.parts.items()}
        class_names, labels = index_classes(names, where=where)
        make = _make_texts if layout.modality == "text" else _make_files
        parts, unreadable = make(layout, rows.parts, labels, cache)
        corrupt = {**rows.incomplete, **unreadable}
        refuse_corrupt(where, corrupt, rows.total, spec.max_corrupt_fraction)
        return assemble_dataset(spec.name, class_names, parts, corrupt=list(corrupt))


def _listed_paths(layout: TableLayout) -> tuple[Path, ...]:
    if layout.modality == "text" or layout.embedded:
        return ()
    rows = (row for part in read_rows(layout).parts.values() for row in part)
    return tuple(layout.root / row.value for row in rows)


def _make_texts(
    layout: TableLayout, rows: _Parts, labels: _Labels, cache: ArtifactCache
) -> tuple[dict[str, Examples], Mapping[str, str]]:
    parts = {
        part: text_examples([row.id for row in listed], labels[part], [row.value for row in listed])
        for part, listed in rows.items()
    }
    return parts, {}


def _make_files(
    layout: TableLayout, rows: _Parts, labels: _Labels, cache: ArtifactCache
) -> tuple[dict[str, Examples], Mapping[str, str]]:
    make = _make_embedded if layout.embedded else _make_listed
    return make(layout, rows, labels, cache)


def _make_listed(
    layout: TableLayout, rows: _Parts, labels: _Labels, cache: ArtifactCache
) -> tuple[dict[str, Examples], Mapping[str, str]]:
    """Return images or clips by their paths, and why some are left out, with their paths."""
    # What decodes stays out of the parent process, which only checks and locates.
    from bench.datasets.files import ImageFile, check_files, file_examples, file_format

    how = file_format(layout.modality)
    files: dict[str, list[ImageFile]] = {
        part: [
            ImageFile(row.id, layout.root / row.value, int(label))
            for row, label in zip(listed, labels[part], strict=True)
        ]
        for part, listed in rows.items()
    }
    every = [file for listed in files.values() for file in listed]
    checked = check_files(every, cache, how)
    paths = {file.id: file.path for file in every if file.id in checked.unreadable}
    unreadable = {id_: f"{paths[id_]}: {why}" for id_, why in checked.unreadable.items()}
    parts = {part: file_examples(listed, checked, how) for part, listed in files.items()}
    return parts, unreadable


def _make_embedded(
    layout: TableLayout, rows: _Parts, labels: _Labels, cache: ArtifactCache
) -> tuple[dict[str, Examples], Mapping[str, str]]:
    from bench.datasets.embedded import EncodedRows, ParquetBytes, check_encoded, encoded_examples
    from bench.datasets.files import file_format

    how = file_format(layout.modality)
    columns = {file: ParquetBytes(file, layout.input) for file in layout.files.values()}

    def fetch_of(listed: Sequence[Row]) -> Callable[[int], bytes | None]:
        return lambda at: columns[listed[at].file](listed[at].position)

    encoded = {
        part: EncodedRows([row.id for row in listed], labels[part], fetch_of(listed))
        for part, listed in rows.items()
    }
    stamps = {name: list(stamp) for name, stamp in stamp_files(layout.files.values()).items()}
    source = {"stamps": stamps, "column": layout.input}
    checked = check_encoded(list(encoded.values()), source, cache, how)
    parts = {part: encoded_examples(each, checked, how) for part, each in encoded.items()}
    return parts, checked.unreadable
