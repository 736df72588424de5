"""A folder -> its classes, splits and files, from names alone; opens no file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from bench.datasets.parts import PART_NAMES
from bench.errors import DatasetError
from bench.interfaces import Modality

IMAGE_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff")
) | {".webp", ".avif"}
SOUND_SUFFIXES = frozenset((".aif", ".aiff", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav"))
"""Files with other suffixes than these and those of images are not looked at, whatever the case."""

_SUFFIXES: dict[Modality, frozenset[str]] = {"image": IMAGE_SUFFIXES, "audio": SOUND_SUFFIXES}
_KINDS: dict[Modality, str] = {"image": "images", "audio": "clips"}
_MODALITIES = {suffix: modality for modality, own in _SUFFIXES.items() for suffix in own}

_IGNORED = ("__MACOSX", "__pycache__")


@dataclass(frozen=True)
class Tree:
    """What a folder holds.

    Attributes:
        class_names: Sorted; their position is the class index.
        files: By part: path relative to the root in POSIX form, and class index; sorted.
        modality: Of the files, by their suffixes; files of another are not among them.
    """

    root: Path
    class_names: tuple[str, ...]
    files: Mapping[str, tuple[tuple[str, int], ...]]
    modality: Modality


def scan_tree(root: Path) -> Tree:
    """Return classes and files, images or clips, below a folder.

    Two layouts are known: ``<class>/**/file`` and ``<split>/<class>/**/file`` with the splits
    ``train`` (or ``training``), and ``val`` (or ``valid``, ``validation``, ``dev``) and ``test``
    (or ``testing``) where there are any, in any case. Hidden files and folders are ignored, links
    are followed.

    Raises:
        DatasetError: The folder does not hold such a data set; says what is wrong and where.
    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise DatasetError(f"{root} {what}. Give the folder that holds one sub-folder per class.")
    parts = _part_folders(root)
    class_names = tuple(sorted(entry.name for entry in _folders(parts["train"])))
    _check_classes(parts["train"], class_names)
    modality = find_modality(root) or "image"
    files = {
        part: _part_files(root, folder, class_names, modality) for part, folder in parts.items()
    }
    return Tree(root=root, class_names=class_names, files=files, modality=modality)


def find_modality(root: Path) -> Modality | None:
    """Return what a folder holds: images if there is one at any depth, else clips; or None.

    So sound that lies beside images, as a spoken name does, is left alone as any other file is.

    Raises:
        DatasetError: A folder cannot be listed.
    """
    if not root.is_dir():
        return None
    found: Modality | None = None
    for path in _files(root, (), _SUFFIXES.keys()):
        found = _modality(path)
        if found == "image":
            break
    return found


def _part_folders(root: Path) -> dict[str, Path]:
    """Return the folder of each part; with no split folders, train is the root."""
    names = [entry.name for entry in _folders(root)]
    splits = {name: PART_NAMES[name.lower()] for name in names if name.lower() in PART_NAMES}
    others = [name for name in names if name not in splits]
    strange = _siblings_alike(root, next(iter(splits)), others) if len(splits) == 1 else []
    if strange:
        raise DatasetError(
            f"{root}: {', '.join((*splits, *strange))} hold folders of the same names, so they "
            f"look like splits, and '{strange[0]}' is no split's name. Rename it to one of "
            f"{', '.join(PART_NAMES)}; where they are classes, put their files into them directly."
        )
    if len(splits) < 2 and (others or list(splits.values()) != ["train"]):
        return {"train": root}
    if others:
        raise DatasetError(
            f"{root} holds split folders ({', '.join(splits)}) beside others "
            f"({', '.join(others[:5])}). Keep either split folders or class folders at the top."
        )
    if "train" not in splits.values():
        raise DatasetError(f"{root} holds {' and '.join(splits)} but no train folder. Add one.")
    parts: dict[str, Path] = {}
    for name, part in splits.items():
        if part in parts:
            raise DatasetError(
                f"{root} holds two folders for {part}: {parts[part].name} and {name}. Keep one."
            )
        parts[part] = root / name
    return parts


def _siblings_alike(root: Path, split: str, others: Sequence[str]) -> list[str]:
    """Return the folders beside a split's that hold nothing but folders, some of its names."""
    inner = {entry.name for entry in _folders(root / split)}
    if not inner or any(_modality(entry.name) for entry in _entries(root / split)):
        return []
    return [name for name in others if inner & {entry.name for entry in _folders(root / name)}]


def _check_classes(folder: Path, class_names: tuple[str, ...]) -> None:
    if not class_names:
        loose = {_modality(entry.name) for entry in _entries(folder)}
        kind = "images" if "image" in loose else "clips" if "audio" in loose else None
        found = f"{kind} but no class folders" if kind else "no class folders"
        raise DatasetError(
            f"{folder} holds {found}. Put the {kind or 'images'} of each class into a sub-folder "
            "of its name."
        )
    if len(class_names) == 1:
        raise DatasetError(
            f"{folder} holds one class only, '{class_names[0]}'. Classification needs two or more."
        )


def _part_files(
    root: Path, folder: Path, class_names: tuple[str, ...], modality: Modality
) -> tuple[tuple[str, int], ...]:
    index = {name: number for number, name in enumerate(class_names)}
    files: list[tuple[str, int]] = []
    for entry in _folders(folder):
        if entry.name not in index:
            raise DatasetError(
                f"{entry.path} is a class that train lacks. Train has: "
                f"{', '.join(class_names[:10])}{', …' if len(class_names) > 10 else ''}. "
                "Rename it, or add it to train."
            )
        paths = sorted(_files(Path(entry.path), (), {modality}))
        if not paths:
            raise DatasetError(
                f"class folder {entry.path} holds no {_KINDS[modality]}. Fill it or remove it. "
                f"Known suffixes: {' '.join(sorted(_SUFFIXES[modality]))}"
            )
        label = index[entry.name]
        files.extend((Path(path).relative_to(root).as_posix(), label) for path in paths)
    _check_encoding(root, files)
    return tuple(files)


def _check_encoding(root: Path, files: list[tuple[str, int]]) -> None:
    for name, _ in files:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise DatasetError(
                f"{root}: the file name {name!r} is not UTF-8, so it cannot be an id. Rename it."
            ) from error


def _files(
    folder: Path, above: tuple[tuple[int, int], ...], wanted: Set[Modality]
) -> Iterator[str]:
    """Yield paths of what is wanted, at any depth; a link back to a folder above is left out."""
    stat = folder.stat()
    identity = (stat.st_dev, stat.st_ino)
    if identity in above:
        return
    for entry in _entries(folder):
        if entry.is_dir():
            yield from _files(Path(entry.path), (*above, identity), wanted)
        elif _modality(entry.name) in wanted:
            yield entry.path


def _folders(folder: Path) -> list[os.DirEntry[str]]:
    return [entry for entry in _entries(folder) if entry.is_dir()]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return what a folder holds, sorted by name, hidden entries left out."""
    try:
        with os.scandir(folder) as entries:
            seen = [entry for entry in entries if not _hidden(entry.name)]
    except OSError as error:
        raise DatasetError(f"cannot list {folder}: {error.strerror}.") from error
    return sorted(seen, key=lambda entry: entry.name)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in _IGNORED


def _modality(name: str) -> Modality | None:
    suffix = os.path.splitext(name)[1]  # noqa: PTH122 - ten times as fast
    return _MODALITIES.get(suffix.lower())
