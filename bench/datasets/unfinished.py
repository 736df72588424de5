"""A download of many files: marked while it goes on, and cleared of what a cut left behind.

Libraries that unpack in place leave half a set behind when they are killed or the disk is full,
and take it for a whole one later.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_ARCHIVES = (".bz2", ".gz", ".tar", ".tgz", ".zip")
"""Kept, since torchvision checks their digest before it unpacks them."""


def marker_path(root: Path, paths: Sequence[str]) -> Path:
    """Return the file that exists while a set is being fetched, and after a fetch was cut off.

    Args:
        root: The data folder.
        paths: Of the set, below it.
    """
    return root / f".{_top(paths[0])}.fetching"


@contextmanager
def unfinished(root: Path, paths: Sequence[str]) -> Iterator[None]:
    """Mark a set as unfinished inside the block; after an exception nothing half done is left.

    Call it while nobody else fetches the same set.
    """
    marker = marker_path(root, paths)
    _clear(root, paths)
    entries = {*paths, *map(_top, paths)}
    marker.write_text("\n".join(sorted(name for name in entries if (root / name).exists())))
    try:
        yield
    except BaseException:
        _clear(root, paths)
        raise
    marker.unlink()


def _clear(root: Path, paths: Sequence[str]) -> None:
    """Remove what a fetch that was cut off had made, archives aside, and its marker."""
    marker = marker_path(root, paths)
    if not marker.exists():
        return
    before = marker.read_text().splitlines()
    for top in {_top(path) for path in paths}:
        if top not in before:
            _remove(root / top)
    for path in paths:
        if path not in before and _top(path) in before:
            shutil.rmtree(root / path, ignore_errors=True)
            with suppress(OSError):
                (root / path).unlink()
    marker.unlink()


def _remove(path: Path) -> None:
    """Remove a file or a folder, but no archive and no folder that holds one."""
    if path.is_dir() and not path.is_symlink():
        for entry in path.iterdir():
            _remove(entry)
        with suppress(OSError):
            path.rmdir()
    elif path.suffix not in _ARCHIVES:
        path.unlink(missing_ok=True)


def _top(path: str) -> str:
    return Path(path).parts[0]
