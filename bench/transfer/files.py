"""One file over the network: resumed where it was cut off, checked, then moved into place.

The hub's own client deletes what had arrived when a download fails, and does not check digests of
plain downloads; here a file has its final name only once its content is what was announced.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from huggingface_hub import get_session
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import hf_raise_for_status

from bench.errors import TransferError
from bench.transfer.failures import (
    CutOffError,
    Place,
    explain_failure,
    is_expected,
    is_of_hub,
    is_refusal,
    is_transient,
)
from bench.transfer.settings import timeout_seconds

_WAITS_SECONDS = (1.0, 2.0)
"""Between tries; as many tries again are made whenever one brought something."""

_MAX_ADDRESSES = 3
"""Of one file, before anything has arrived from the last of them."""

_CHUNK_BYTES = 1 << 20
_GIT_DIGEST = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{8,64}")

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class RemoteFile:
    """A file on the network and the place it belongs to.

    Attributes:
        url: Address of its bytes.
        path: Where it will lie once it is whole.
        digest: How the sha256 of its content begins, at least 8 digits, or the 40 digits by which
            git names it; None or anything else checks nothing.
        num_bytes: As announced; None where unknown.
        headers: Of the request.
        describe_again: Asks for the same file anew, where its address may expire.
    """

    url: str
    path: Path
    digest: str | None = None
    num_bytes: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    describe_again: Callable[[], RemoteFile] | None = None

    @property
    def part(self) -> Path:
        """Where its bytes gather until it is whole."""
        return self.path.with_name(f"{self.path.name}.part")


def download(file: RemoteFile, place: Place, report: Callable[[int], None]) -> None:
    """Bring a file to its path, going on where an earlier try was cut off.

    Of several processes that want the same file, one fetches it and the others wait.

    Args:
        file: What to fetch.
        place: Names it in the message.
        report: Takes the number of bytes that are here.

    Raises:
        TransferError: It did not arrive, or not with the announced size and digest. What had
            arrived is kept to go on from, unless its content is wrong.
    """
    try:
        with _held_part(file) as part:
            if file.path.exists():
                file.part.unlink()
                return
            if not _checks(file.digest):
                _empty(part)  # Two versions of a file could end up in one, and nothing would tell.
            _fill(file, place, part, report)
            os.fsync(part.fileno())
            _check(file, place)
            file.part.replace(file.path)
    except Exception as error:
        if isinstance(error, TransferError) or not is_expected(error):
            raise
        raise explain_failure(place, error) from error


def patiently(
    ask: Callable[[], Answer], has_advanced: Callable[[], bool] = lambda: False
) -> Answer:
    """Return an answer, asking again where a server may do better a moment later.

    Args:
        ask: Makes one request.
        has_advanced: Whether the last try brought something; the count of tries then starts anew.
    """
    waits = iter(_WAITS_SECONDS)
    while True:
        try:
            return ask()
        except Exception as error:
            if has_advanced():
                waits = iter(_WAITS_SECONDS)
            wait = next(waits, None)
            if wait is None or not is_transient(error):
                raise
            time.sleep(wait)


@contextmanager
def _held_part(file: RemoteFile) -> Iterator[BinaryIO]:
    """Hold the partial file open for appending, and locked against other processes."""
    file.part.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with file.part.open("ab") as part:
            fcntl.flock(part, fcntl.LOCK_EX)
            # Who held the lock before may have moved or removed what was opened.
            if _is_at(part, file.part):
                yield part
                return


def _is_at(part: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(part.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _fill(file: RemoteFile, place: Place, part: BinaryIO, report: Callable[[int], None]) -> None:
    """Append what is not here, under a fresh address where the last one is refused.

    A signed address may expire while its bytes arrive; whoever gave it gives another.
    """
    num_addresses = 1
    while True:
        held = _size(part)
        try:
            return _append_patiently(file, part, report)
        except HfHubHTTPError as error:
            if _size(part) > held:
                num_addresses = 1
            expired = is_refusal(error) and (_size(part) or not is_of_hub(place, error))
            if file.describe_again is None or not expired or num_addresses == _MAX_ADDRESSES:
                raise
        num_addresses += 1
        again = file.describe_again()
        file = replace(file, url=again.url, headers=again.headers)


def _append_patiently(file: RemoteFile, part: BinaryIO, report: Callable[[int], None]) -> None:
    sizes = [_size(part)]

    def has_advanced() -> bool:
        sizes.append(_size(part))
        return sizes[-1] > sizes[-2]

    patiently(lambda: _append(file, part, report), has_advanced)


def _append(file: RemoteFile, part: BinaryIO, report: Callable[[int], None]) -> None:
    """Make one request for what is not here yet.

    Raises:
        CutOffError: The answer ended early.
        Exception: Whatever the hub's client raises.
    """
    if file.num_bytes is not None and _size(part) > file.num_bytes:
        _empty(part)
    held = _size(part)
    if held == file.num_bytes:
        return
    wanted = {"Range": f"bytes={held}-"} if held else {}
    headers = {"Accept-Encoding": "identity", **file.headers, **wanted}
    with get_session().stream(
        "GET", file.url, headers=headers, timeout=timeout_seconds()
    ) as response:
        if response.status_code == 416:
            if response.headers.get("Content-Range", "") == f"bytes */{held}":
                return  # Whole: an earlier try ended before it was moved.
            _empty(part)
            raise CutOffError(f"it has nothing beyond the first {held:,} bytes")
        hf_raise_for_status(response)
        if response.status_code != 206:
            _empty(part)
        total = _announced(file, response, _size(part))
        # As they come: gathered into larger pieces, what precedes a cut would be lost.
        for chunk in response.iter_bytes():
            part.write(chunk)
            report(part.tell())
    if total is not None and _size(part) != total:
        raise CutOffError(f"it ended after {_size(part):,} of {total:,} bytes, each time")


def _announced(file: RemoteFile, response: Any, held: int) -> int | None:
    """Return the size that the whole file should have, or None."""
    length = response.headers.get("Content-Length", "")
    if file.num_bytes is not None or not length.isdigit():
        return file.num_bytes
    return held + int(length)


def _size(part: BinaryIO) -> int:
    part.flush()
    return os.fstat(part.fileno()).st_size


def _empty(part: BinaryIO) -> None:
    part.flush()
    part.seek(0)
    part.truncate()


def _checks(digest: str | None) -> bool:
    return digest is not None and bool(_GIT_DIGEST.fullmatch(digest) or _SHA256.fullmatch(digest))


def _check(file: RemoteFile, place: Place) -> None:
    """Remove what has arrived and raise where it is not what was announced."""
    problem = find_mismatch(file.part, file.digest)
    if problem:
        file.part.unlink()
        raise TransferError(
            f"{place.what} arrived from {place.label} with another content than announced: "
            f"{problem}. Nothing of it was kept. Run it again; if it stays so, a proxy or a mirror "
            "on the way alters it, or the file there is damaged."
        )


def find_mismatch(path: Path, digest: str | None) -> str | None:
    """Return how a file's content contradicts a digest, or None.

    Args:
        path: An existing file.
        digest: As in `RemoteFile`.
    """
    if digest is None or not _checks(digest):
        return None
    name = "git's digest" if _GIT_DIGEST.fullmatch(digest) else "sha256"
    found = _digest(path, is_git=name != "sha256")
    if found.startswith(digest):
        return None
    return f"{name} begins {found[:8]}, not {digest[:8]}"


def _digest(path: Path, *, is_git: bool) -> str:
    """Return the sha256 of a file, or the name that git gives to its content.

    Source of the latter: Chacon and Straub, "Pro Git", section 10.2, "Object Storage".
    """
    sha = hashlib.sha1(usedforsecurity=False) if is_git else hashlib.sha256()
    if is_git:
        sha.update(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            sha.update(chunk)
    return sha.hexdigest()
