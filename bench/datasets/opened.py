"""Local data or a stream -> splits of the `datasets` library by part; knows no features.

The library keeps what it converts under bench's cache. It runs no code of a repository.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from bench.datasets.hub import Repository, files_below
from bench.datasets.parts import PART_NAMES, PART_ORDER
from bench.digests import digest_value, stamp_files
from bench.errors import DatasetError
from bench.files import file_lock
from bench.spec import DatasetSpec

if TYPE_CHECKING:
    from bench.artifacts import ArtifactCache

Table: TypeAlias = Any
"""A `datasets.Dataset`; the library has no types that mypy may read."""

EXTRA = "pip install 'transfer-bench[hub-data]'"

_FILE_BUILDERS = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
}


def open_splits(
    spec: DatasetSpec, place: Path | Repository, cache: ArtifactCache
) -> dict[str, Table]:
    """Return every split under its own name, downloaded or streamed first where it has to be.

    Raises:
        DatasetError: It cannot be had, or not be read.
    """
    if spec.streaming is not None:
        return _open_stream(spec, place, spec.streaming, cache)
    path = place if isinstance(place, Path) else place.fetch()
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        from datasets import load_from_disk

        saved = _reading(spec, path, lambda: load_from_disk(str(path)))
        return dict(saved) if isinstance(saved, dict) else {"train": saved}
    return dict(_reading(spec, path, lambda: _load(spec, path, cache)))


def choose_parts(spec: DatasetSpec, splits: Mapping[str, Table]) -> dict[str, Table]:
    """Return ``train``, and ``val`` and ``test`` where the spec names them or a split is called so.

    A split of another name is left alone, and so is one that the spec uses as another part.

    Raises:
        DatasetError: There is no train, a named split is not there, or two are for one part.
    """
    named = {part: name for part, name in (("val", spec.val), ("test", spec.test)) if name}
    known = ", ".join(splits)
    for part, name in named.items():
        if name not in splits:
            raise DatasetError(f"{spec.name} has no split '{name}' for {part}. Known: {known}.")
    chosen = dict(named)
    for name in splits:
        own = PART_NAMES.get(name.lower())
        if own is None or own in named or name in named.values():
            continue
        if own in chosen:
            raise DatasetError(
                f"{spec.name} has two splits for {own}: {chosen[own]} and {name}. Say which one "
                f"with {own}:."
            )
        chosen[own] = name
    if "train" not in chosen:
        raise DatasetError(f"{spec.name} has no split train. Known: {known}.")
    return {part: splits[chosen[part]] for part in PART_ORDER if part in chosen}


def _load(spec: DatasetSpec, path: Path, cache: ArtifactCache, **options: Any) -> Any:
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    kept = str(cache.root / "hub-data")
    if path.is_dir():
        return load_dataset(str(path), spec.config, cache_dir=kept, **options)
    builder = _FILE_BUILDERS.get(path.suffix.lower())
    if builder is None:
        raise DatasetError(f"{path} is no data by its name. Known: {', '.join(_FILE_BUILDERS)}.")
    return load_dataset(builder, data_files={"train": str(path)}, cache_dir=kept, **options)


def _open_stream(
    spec: DatasetSpec, place: Path | Repository, count: int, cache: ArtifactCache
) -> dict[str, Table]:
    """Return the first examples of every split, streamed once and kept as parquet."""
    folder = stream_folder(spec, place, cache.root)
    with file_lock(folder.with_suffix(".lock")):
        if not folder.is_dir():
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            _reading(spec, place, lambda: _save_stream(spec, place, count, partial, cache))
            partial.rename(folder)
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    files = {file.stem: str(file) for file in sorted(folder.glob("*.parquet"))}
    return dict(load_dataset("parquet", data_files=files, cache_dir=str(cache.root / "hub-data")))


def stream_folder(spec: DatasetSpec, place: Path | Repository, cache_root: Path) -> Path:
    """Return where the first examples of a stream are kept, by all that chooses them.

    What was streamed from a path is streamed anew when a file there changes.
    """
    files = files_below(place) if isinstance(place, Path) else ()
    key = {
        "name": spec.name,
        "config": spec.config,
        "revision": spec.revision,
        "count": spec.streaming,
        "stamps": {path: list(stamp) for path, stamp in stamp_files(files).items()},
    }
    return cache_root / "hub-streams" / digest_value(key)


def _save_stream(
    spec: DatasetSpec, place: Path | Repository, count: int, folder: Path, cache: ArtifactCache
) -> None:
    import pyarrow
    from datasets import Dataset, disable_progress_bars, load_dataset

    disable_progress_bars()
    if isinstance(place, Path):
        streams = _load(spec, place, cache, streaming=True)
    else:
        streams = load_dataset(place.name, spec.config, revision=place.revision, streaming=True)
    for name, stream in streams.items():
        rows = list(without_decoding(stream).take(count))
        if rows:
            # Not by `from_list`, which would encode clips anew.
            table = pyarrow.Table.from_pylist(rows, schema=stream.features.arrow_schema)
            Dataset(table).to_parquet(str(folder / f"{name}.parquet"))


def without_decoding(table: Table) -> Table:
    """Return a table whose images and clips come as bytes or paths."""
    for name, kind in (table.features or {}).items():
        if hasattr(kind, "decode"):
            table = table.cast_column(name, type(kind)(decode=False))
    return table


def _reading(spec: DatasetSpec, place: Path | Repository, action: Callable[[], Any]) -> Any:
    """Return what an action of the library gives; its errors become one of ours."""
    try:
        return action()
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, ImportError) as error:
        # The library raises its own errors, of these classes, and those of every reader below it.
        lines = str(error).strip().splitlines()
        where = place if isinstance(place, Path) else f"the repository {place.name}"
        raise DatasetError(
            f"{spec.name}: {where} cannot be read: {type(error).__name__}: "
            f"{lines[0] if lines else ''} bench runs no code of a dataset: one that has a script "
            "may have a copy in parquet, under revision: refs/convert/parquet."
        ) from error
