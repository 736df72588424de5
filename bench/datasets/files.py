"""Files -> examples, each checked by decoding it once; knows no folder layout."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL

from bench.artifacts import ArtifactCache
from bench.datasets.images import num_decoding_threads, open_rgb, unreadable_reason
from bench.digests import digest_value
from bench.errors import DatasetError
from bench.interfaces import Examples, Modality, RawInput


@dataclass(frozen=True)
class FileFormat:
    """How files of one modality are read.

    Attributes:
        versions: Of the packages that decode.
        open: Bytes of a file -> the example in it.
        damage: Bytes of a file -> why they hold no example, or None.
    """

    modality: Modality
    versions: Mapping[str, str]
    open: Callable[[bytes], RawInput]
    damage: Callable[[bytes], str | None]


IMAGES = FileFormat("image", {"pillow": PIL.__version__}, open_rgb, unreadable_reason)


def file_format(modality: Modality) -> FileFormat:
    """Return how files that hold images or clips are read.

    Raises:
        DatasetError: The package that reads them is not installed.
    """
    if modality == "audio":
        from bench.datasets.clips import sound_format

        return sound_format()
    return IMAGES


@dataclass(frozen=True)
class ImageFile:
    """A file that should be an image or a clip.

    Attributes:
        id: Its name within the dataset, the same wherever the dataset lies.
        label: Class index.
    """

    id: str
    path: Path
    label: int


@dataclass(frozen=True)
class CheckedFiles:
    """What reading every file once has shown.

    Attributes:
        digests: Of each file's bytes, by id.
        unreadable: Reason by id of the files that hold no example, are damaged or not there.
    """

    digests: Mapping[str, str]
    unreadable: Mapping[str, str]


def check_files(
    files: Sequence[ImageFile], cache: ArtifactCache, how: FileFormat = IMAGES
) -> CheckedFiles:
    """Return digests and damage of files, by decoding them in parallel.

    The result is remembered for as long as path, size and time stamps of every file stay as they
    are: a second run reads no file.

    Args:
        files: With ids that are unique.
        cache: Where the result is remembered.
        how: They are read.

    Raises:
        DatasetError: The disk fails; what it holds is not known to be damaged then.
    """
    stamps = [[file.id, str(file.path.absolute()), *_stamp(file.path)] for file in files]
    key = {"stamps": digest_value(stamps), **how.versions}
    found = cache.json("files", key, lambda: _check_all(files, how))
    return CheckedFiles(digests=found["digests"], unreadable=found["unreadable"])


def file_examples(
    files: Sequence[ImageFile], checked: CheckedFiles, how: FileFormat = IMAGES
) -> Examples:
    """Return the readable ones of the files as examples; each is read when it is asked for."""
    readable = [file for file in files if file.id not in checked.unreadable]
    paths = [file.path for file in readable]

    def read(position: int) -> RawInput:
        return how.open(paths[position].read_bytes())

    return Examples(
        ids=tuple(file.id for file in readable),
        labels=np.array([file.label for file in readable], dtype=np.int64),
        contents=tuple(checked.digests[file.id] for file in readable),
        read=read,
        encoded=lambda position: paths[position].read_bytes(),
        modality=how.modality,
    )


def _stamp(path: Path) -> tuple[int, int, int]:
    """Return size, modification and status-change time; the last one sees permissions change."""
    try:
        stat = path.stat()
    except OSError:
        return (-1, -1, -1)
    return (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def _check_all(files: Sequence[ImageFile], how: FileFormat) -> dict[str, dict[str, str]]:
    with ThreadPoolExecutor(num_decoding_threads()) as threads:
        results = list(threads.map(lambda file: _check_one(file.path, how), files))
    digests, unreadable = {}, {}
    for file, (digest, reason) in zip(files, results, strict=True):
        if reason is None:
            digests[file.id] = digest
        else:
            unreadable[file.id] = reason
    return {"digests": digests, "unreadable": unreadable}


def _check_one(path: Path, how: FileFormat) -> tuple[str, str | None]:
    """Return the digest of a file and why it is unreadable, if it is."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return "", "missing"
    except PermissionError:
        return "", "permission denied"
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}") from error
    return hashlib.sha256(data).hexdigest(), how.damage(data)
