"""``hf/<owner>/<name>`` and ``hf/<path>``: data by the `datasets` library; draws no split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.datasets.extras import missing_extra
from bench.datasets.features import Columns, choose_columns
from bench.datasets.glance import glance_modality
from bench.datasets.hub import Repository, files_below, find_place
from bench.datasets.labels import index_classes, read_class_names
from bench.datasets.layout import INPUTS, conflicting_selectors
from bench.datasets.opened import (
    EXTRA,
    Table,
    choose_parts,
    open_splits,
    stream_folder,
    without_decoding,
)
from bench.datasets.parts import conflicting_request
from bench.datasets.raw import assemble_dataset, number_ids, refuse_corrupt
from bench.datasets.texts import text_examples
from bench.digests import stamp_files
from bench.errors import DatasetError
from bench.files import default_cache_dir
from bench.interfaces import Emit, Examples, Located, Missing, Modality, RawDataset
from bench.record import Progress
from bench.spec import DatasetSpec

if TYPE_CHECKING:
    import numpy as np

    from bench.artifacts import ArtifactCache

_PACKAGES = ("datasets", "pillow", "pyarrow")


class HubDataSource:
    """``hf/…``: see `choose_columns` for columns and `choose_parts` for splits."""

    prefix: ClassVar[str] = "hf"
    selectors: ClassVar[tuple[str, ...]] = (
        *("config", "text", "image", "audio", "label", "val", "test", "revision", "streaming"),
    )

    def names(self) -> Sequence[str]:
        """Return nothing: the hub has too many."""
        return ()

    def modality(self, spec: DatasetSpec) -> Modality | None:
        """Return what the spec or the files on this machine say; None before a download."""
        named = (modality for modality in INPUTS if getattr(spec, modality))
        return next(named, None) or glance_modality(self.locate(spec).files)

    def check(self, spec: DatasetSpec) -> str | None:
        """Return what is wrong with a spec, or None; columns are known once it is opened."""
        if problem := conflicting_request(spec) or conflicting_selectors(spec):
            return problem
        if find_spec("datasets") is None:
            return f"'{spec.name}' needs the datasets library: {EXTRA}"
        try:
            place = find_place(spec)
        except DatasetError as error:
            return str(error)
        if isinstance(place, Path) and spec.revision:
            return f"revision is for datasets on the hub, and '{spec.name}' is a path: drop it"
        modality = self.modality(spec)
        return None if modality is None else missing_extra(modality)

    def locate(self, spec: DatasetSpec) -> Located:
        """Return the files of a path or of the hub's cache, or what is to be downloaded."""
        try:
            place = find_place(spec)
        except DatasetError as error:
            lack = Missing(f"data of {spec.name}", str(error), downloadable=False)
            return Located(missing=(lack,), packages=_PACKAGES)
        path = place if isinstance(place, Path) else place.snapshot()
        if path is None and spec.streaming is not None:
            streamed = stream_folder(spec, place, default_cache_dir())
            path = streamed if streamed.is_dir() else None
        if path is None:
            assert isinstance(place, Repository)
            lack = place.missing()
            if spec.streaming is not None:
                # How large the first examples of a stream are is told by nobody.
                lack = replace(lack, what=_describe_stream(spec), origin=None)
            return Located(missing=(lack,), packages=_PACKAGES)
        return Located(files=files_below(path), packages=_PACKAGES)

    def fetch(self, spec: DatasetSpec, emit: Emit) -> None:
        """Download what is not here; of a stream, its first examples, which tell no progress."""
        place = find_place(spec)
        if isinstance(place, Path) or not self.locate(spec).missing:
            return
        if spec.streaming is None:
            place.fetch(emit)
            return
        from bench.artifacts import ArtifactCache

        emit(Progress(phase="download", item=f"the first {spec.streaming} of {spec.name}"))
        open_splits(spec, place, ArtifactCache(default_cache_dir()))

    def load(self, spec: DatasetSpec, cache: ArtifactCache) -> RawDataset:
        """Return the examples of train, val and test that have an input and a label.

        Raises:
            DatasetError: Not here and not to be fetched, not to be read, a column cannot be told,
                an example has several labels, or more is corrupt than the spec allows.
        """
        tables = choose_parts(spec, open_splits(spec, find_place(spec), cache))
        parts = {part: _read_part(spec, part, table) for part, table in tables.items()}
        corrupt = {id_: lack for part in parts.values() for id_, lack in part.incomplete.items()}
        total = sum(len(part.table) for part in parts.values())
        refuse_corrupt(spec.name, corrupt, total, spec.max_corrupt_fraction)
        class_names, labels = index_classes(
            {name: part.names for name, part in parts.items()}, where=spec.name
        )
        make = _make_texts if parts["train"].columns.modality == "text" else _make_files
        examples, unreadable = make(parts, labels, cache)
        corrupt |= unreadable
        refuse_corrupt(spec.name, corrupt, total, spec.max_corrupt_fraction)
        return assemble_dataset(spec.name, class_names, examples, corrupt=list(corrupt))


def _describe_stream(spec: DatasetSpec) -> str:
    config = f", {spec.config}" if spec.config else ""
    return f"first {spec.streaming} examples of each split of {spec.name}{config}"


@dataclass(frozen=True)
class _Part:
    """A split with the rows that can be used.

    Attributes:
        positions: Of these rows in the table.
        ids: Their ids.
        names: Their class names.
        incomplete: What each row that is left out lacks, by id.
    """

    table: Table
    columns: Columns
    positions: Sequence[int]
    ids: Sequence[str]
    names: Sequence[str]
    incomplete: Mapping[str, str]


def _read_part(spec: DatasetSpec, part: str, table: Table) -> _Part:
    where = f"{spec.name}, {part}"
    columns = choose_columns(spec, table.features, where)
    names = _class_names(columns, _column(table, columns.label), where)
    if not any(names):
        raise DatasetError(
            f"{where}: no example has a label. If the published labels are secret, name a split "
            "that has them, as in test: validation."
        )
    ids = number_ids(f"{part}/", len(names))
    lacks = {id_: "no label" for id_, name in zip(ids, names, strict=True) if not name}
    if columns.modality == "text":
        texts = _column(table, columns.input)
        lacks |= {
            id_: "no text" for id_, text in zip(ids, texts, strict=True) if not (text or "").strip()
        }
    kept = [at for at, id_ in enumerate(ids) if id_ not in lacks]
    return _Part(
        table=table,
        columns=columns,
        positions=kept,
        ids=[ids[at] for at in kept],
        names=[names[at] or "" for at in kept],
        incomplete=lacks,
    )


def _column(table: Table, name: str) -> list[Any]:
    values: list[Any] = table.with_format("arrow").select_columns([name])[:][name].to_pylist()
    return values


def _class_names(columns: Columns, values: Sequence[Any], where: str) -> list[str | None]:
    """Return names; -1 is how published tests without labels are stored."""
    known = columns.class_names
    if known is None:
        return read_class_names(values, column=columns.label, where=where)
    return [None if value is None or value < 0 else known[value] for value in values]


def _make_texts(
    parts: Mapping[str, _Part], labels: Mapping[str, np.ndarray], cache: ArtifactCache
) -> tuple[dict[str, Examples], Mapping[str, str]]:
    examples = {}
    for name, part in parts.items():
        texts = _column(part.table, part.columns.input)
        examples[name] = text_examples(part.ids, labels[name], [texts[at] for at in part.positions])
    return examples, {}


def _make_files(
    parts: Mapping[str, _Part], labels: Mapping[str, np.ndarray], cache: ArtifactCache
) -> tuple[dict[str, Examples], Mapping[str, str]]:
    # What decodes stays out of the parent process, which only checks and locates.
    from bench.datasets.embedded import EncodedRows, check_encoded, encoded_examples
    from bench.datasets.files import file_format

    how = file_format(parts["train"].columns.modality)
    rows = {
        name: EncodedRows(part.ids, labels[name], _fetcher(part)) for name, part in parts.items()
    }
    files = [Path(file["filename"]) for part in parts.values() for file in part.table.cache_files]
    stamps = {path: list(stamp) for path, stamp in stamp_files(files).items()}
    columns = {name: part.columns.input for name, part in parts.items()}
    source = {"stamps": stamps, "columns": columns}
    checked = check_encoded(list(rows.values()), source, cache, how)
    examples = {name: encoded_examples(each, checked, how) for name, each in rows.items()}
    return examples, checked.unreadable


def _fetcher(part: _Part) -> Callable[[int], bytes | None]:
    table, name = without_decoding(part.table), part.columns.input

    def fetch(position: int) -> bytes | None:
        cell = table[part.positions[position]][name] or {}
        if cell.get("bytes"):
            return bytes(cell["bytes"])
        path = Path(cell["path"]) if cell.get("path") else None
        return path.read_bytes() if path is not None and path.is_file() else None

    return fetch
