"""``torchvision/<Class>``: its classification sets, from disk or the network; draws no split."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.datasets.parts import conflicting_request
from bench.datasets.raw import SINGLE_LABEL, assemble_dataset, number_ids, refuse_corrupt
from bench.datasets.torchvision_sets import OTHER_TASKS, SETS, TorchvisionSet
from bench.datasets.unfinished import marker_path, unfinished
from bench.errors import DatasetError
from bench.files import default_cache_dir, file_lock
from bench.interfaces import Emit, Examples, Located, Missing, RawDataset
from bench.record import Progress
from bench.spec import DatasetSpec
from bench.transfer.settings import socket_timeout

if TYPE_CHECKING:
    from bench.artifacts import ArtifactCache
    from bench.datasets.files import ImageFile

_FILE_LISTS = ("_image_files", "_images")
_PAIR_LISTS = ("_samples", "samples")
_LABEL_LISTS = ("_labels", "targets", "labels", "y")
_CLASS_LISTS = ("classes", "categories")


def data_dir() -> Path:
    """Return the folder that torchvision's data lies in: ``BENCH_DATA`` or ``<cache>/data``."""
    configured = os.environ.get("BENCH_DATA")
    return Path(configured).expanduser() if configured else default_cache_dir() / "data"


class TorchvisionSource:
    """The sets of `torchvision_sets.SETS`; torchvision is imported only to load one."""

    prefix: ClassVar[str] = "torchvision"

    def names(self) -> Sequence[str]:
        """Return every set as ``torchvision/<name>``, sorted."""
        return tuple(f"torchvision/{name}" for name in sorted(SETS))

    def check(self, spec: DatasetSpec) -> str | None:
        """Return what is wrong with a spec, or None; unknown names are told by those known."""
        return _other_task(spec) or conflicting_request(spec)

    def locate(self, spec: DatasetSpec) -> Located:
        """Return the set's files and folders, or what is not here and how to get it."""
        listed, root = _listed(spec), data_dir()
        packages = ("torchvision", "pillow")
        marker = marker_path(root, listed.paths)
        paths = tuple(root / path for path in listed.paths)
        if all(path.exists() for path in paths) and not marker.exists():
            return Located(files=paths, packages=packages)
        missing = Missing(
            what=f"data of {spec.name}",
            how=_how_to_get(listed, root),
            num_bytes=listed.num_bytes,
            downloadable=listed.downloadable and _has_needs(listed),
        )
        return Located(missing=(missing,), packages=packages)

    def fetch(self, spec: DatasetSpec, emit: Emit) -> None:
        """Download the set where it is not here; torchvision does not tell how far it is."""
        if self.locate(spec).missing:
            emit(Progress(phase="download", item=f"data of {spec.name}"))
            _open_parts(spec, _listed(spec))

    def load(self, spec: DatasetSpec, cache: ArtifactCache) -> RawDataset:
        """Return the parts that the set has, downloading it first where it is not here.

        Raises:
            DatasetError: It is not here and cannot be fetched, is not whole, or too much of it is
                corrupt.
        """
        listed = _listed(spec)
        sets = _open_parts(spec, listed)
        class_names = _class_names(listed, sets)
        files = {part: _image_files(opened, data_dir()) for part, opened in sets.items()}
        if any(listed_files is None for listed_files in files.values()):
            parts = {part: _array_part(part, opened, listed) for part, opened in sets.items()}
            return assemble_dataset(spec.name, class_names, parts)
        return _file_dataset(
            spec, class_names, {part: found or [] for part, found in files.items()}, cache
        )


def _other_task(spec: DatasetSpec) -> str | None:
    """Return why a set of torchvision that is no classification set cannot be used, or None."""
    labels = OTHER_TASKS.get(spec.name.partition("/")[2])
    if labels is None:
        return None
    return f"{spec.name} has {labels}, and {SINGLE_LABEL}"


def _listed(spec: DatasetSpec) -> TorchvisionSet:
    name = spec.name.partition("/")[2]
    if refused := _other_task(spec):
        raise DatasetError(refused)
    if name not in SETS:
        raise DatasetError(
            f"unknown dataset '{spec.name}'. List them with: bench list datasets 'torchvision/*'"
        )
    return SETS[name]


def _has_needs(listed: TorchvisionSet) -> bool:
    return listed.needs is None or find_spec(listed.needs) is not None


def _how_to_get(listed: TorchvisionSet, root: Path) -> str:
    places = ", ".join(str(root / path) for path in listed.paths)
    if not listed.downloadable:
        return f"torchvision can no longer download it; put it there by hand: {places}"
    needs = "" if _has_needs(listed) else f"pip install {listed.needs}, then "
    arguments = "".join(
        f", {name}={value!r}" for name, value in next(iter(listed.parts.values())).items()
    )
    return (
        f"{needs}a run with network downloads it to {root} (BENCH_DATA), or fetch each part with: "
        f'python -c "from torchvision.datasets import {listed.class_name} as D; '
        f"D('{root}'{arguments}, download=True)\""
    )


def _open_parts(spec: DatasetSpec, listed: TorchvisionSet) -> dict[str, Any]:
    """Return torchvision's object per part, fetched under a lock where files are missing."""
    source, root = TorchvisionSource(), data_dir()
    if not source.locate(spec).missing:
        return _construct(spec, listed, root, download=False)
    if not listed.downloadable or not _has_needs(listed):
        raise DatasetError(f"data of {spec.name} is missing: {_how_to_get(listed, root)}")
    with file_lock(marker_path(root, listed.paths).with_suffix(".lock")):
        if not source.locate(spec).missing:  # Another process has just fetched it.
            return _construct(spec, listed, root, download=False)
        with unfinished(root, listed.paths):
            return _construct(spec, listed, root, download=True)


def _construct(
    spec: DatasetSpec, listed: TorchvisionSet, root: Path, *, download: bool
) -> dict[str, Any]:
    from torchvision import datasets

    factory = getattr(datasets, listed.class_name)
    fetch = {"download": True} if download else {}
    try:
        with socket_timeout():
            return {
                part: factory(str(root), **arguments, **fetch)
                for part, arguments in listed.parts.items()
            }
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        doing = "cannot be downloaded" if download else f"in {root} is not whole"
        raise DatasetError(
            f"data of {spec.name} {doing}: {type(error).__name__}: {error}. "
            f"{'It can be provided so' if download else 'Delete it and get it again'}: "
            f"{_how_to_get(listed, root)}"
        ) from error


def _first(opened: Any, names: Sequence[str]) -> Any:
    """Return the first of the attributes that torchvision's object has, or None."""
    return next((getattr(opened, name) for name in names if hasattr(opened, name)), None)


def _class_names(listed: TorchvisionSet, sets: Mapping[str, Any]) -> list[str]:
    """Return class names; their numbers where torchvision gives none."""
    given = _first(sets["train"], _CLASS_LISTS)
    if given is None:
        count = max(max(_labels(opened, listed)) for opened in sets.values()) + 1
        return [str(index) for index in range(count)]
    names = [name if isinstance(name, str) else name[0] for name in given]
    return names[listed.skip_classes :]


def _labels(opened: Any, listed: TorchvisionSet) -> list[int]:
    import numpy as np

    pairs = _first(opened, _PAIR_LISTS)
    labels = _first(opened, _LABEL_LISTS) if pairs is None else [label for _, label in pairs]
    return [int(label) for label in np.asarray(labels, dtype=np.int64) - listed.skip_classes]


def _image_files(opened: Any, root: Path) -> list[ImageFile] | None:
    """Return the files of a part, sorted since some sets list them as the disk does, or None."""
    from bench.datasets.files import ImageFile

    pairs = _first(opened, _PAIR_LISTS)
    paths = _first(opened, _FILE_LISTS)
    if pairs is None and paths is not None:
        pairs = list(zip(paths, opened._labels, strict=True))
    if pairs is None and hasattr(opened, "categories"):
        pairs = _caltech_pairs(opened)
    if pairs is None:
        return None
    files = []
    for path, label in pairs:
        absolute = Path(path)
        files.append(ImageFile(absolute.relative_to(root).as_posix(), absolute, int(label)))
    return sorted(files, key=lambda file: file.id)


def _caltech_pairs(opened: Any) -> list[tuple[Path, int]]:
    """Return path and label of Caltech's images, which torchvision numbers without listing."""
    is_256 = type(opened).__name__ == "Caltech256"
    folder = Path(opened.root) / ("256_ObjectCategories" if is_256 else "101_ObjectCategories")
    pairs = []
    for label, index in zip(opened.y, opened.index, strict=True):
        name = f"{label + 1:03d}_{index:04d}.jpg" if is_256 else f"image_{index:04d}.jpg"
        pairs.append((folder / opened.categories[label] / name, label))
    return pairs


def _array_part(part: str, opened: Any, listed: TorchvisionSet) -> Examples:
    import numpy as np

    from bench.datasets.arrays import array_examples

    images = np.asarray(opened.data)
    if images.ndim == 4 and images.shape[-1] != 3:
        images = images.transpose(0, 2, 3, 1)
    return array_examples(
        images, np.array(_labels(opened, listed)), ids=number_ids(f"{part}/", len(images))
    )


def _file_dataset(
    spec: DatasetSpec,
    class_names: Sequence[str],
    files: Mapping[str, list[ImageFile]],
    cache: ArtifactCache,
) -> RawDataset:
    from bench.datasets.files import check_files, file_examples

    every = [file for part in files.values() for file in part]
    checked = check_files(every, cache)
    refuse_corrupt(spec.name, checked.unreadable, len(every), spec.max_corrupt_fraction)
    return assemble_dataset(
        spec.name,
        class_names,
        {part: file_examples(listed, checked) for part, listed in files.items()},
        corrupt=list(checked.unreadable),
    )
