"""Content digests of values, files and arrays; knows nothing of what they mean."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 1 << 20


def digest_value(value: Any) -> str:
    """Return the sha256 hex digest of a JSON value, independent of key order.

    Args:
        value: Anything `json.dumps` takes. NaN and infinity are refused.

    Raises:
        ValueError: The value holds a float that is not finite.
    """
    return digest_text(canonical_text(value))


def canonical_text(value: Any) -> str:
    """Return the text of a JSON value that `digest_value` digests.

    Raises:
        ValueError: The value holds a float that is not finite.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_text(text: str) -> str:
    """Return the sha256 hex digest of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest_file(path: Path) -> str:
    """Return the sha256 hex digest of a file's bytes, read in 1 MiB chunks."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            sha.update(chunk)
    return sha.hexdigest()


def digest_strings(items: Iterable[str]) -> str:
    """Return the sha256 hex digest of an ordered sequence of strings."""
    sha = hashlib.sha256()
    for item in items:
        data = item.encode()
        sha.update(len(data).to_bytes(8, "little"))
        sha.update(data)
    return sha.hexdigest()


def stamp_files(paths: Iterable[Path]) -> Mapping[str, tuple[int, int]]:
    """Return size and modification time (ns) per path: a cheap sign that bytes changed.

    A path that cannot be looked at is stamped (-1, -1), so that its appearance is a change too.
    """
    stamps = {}
    for path in paths:
        try:
            stat = path.stat()
            stamps[str(path)] = (stat.st_size, stat.st_mtime_ns)
        except OSError:
            stamps[str(path)] = (-1, -1)
    return stamps
