"""Files of a hub repository, brought into the hub's own cache at one commit.

Branch or tag is resolved to a commit once and all files are of that commit. They are linked into
its snapshot when all are here: a download that was cut off never looks like a whole snapshot.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import HfApi, get_hf_file_metadata, get_session, hf_hub_url
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import build_hf_headers

from bench.errors import TransferError
from bench.interfaces import Emit, HubFiles
from bench.transfer.cache import link_blob, repository_folder, write_names, write_reference
from bench.transfer.failures import (
    Place,
    explain_failure,
    is_expected,
)
from bench.transfer.files import RemoteFile, download, find_mismatch, patiently
from bench.transfer.settings import endpoint, timeout_seconds
from bench.transfer.tracking import Tracker

_PLAIN_NAME = re.compile(r"[\w-][\w.-]*")
_SHOWN_REVISIONS = 20
_NOT_AS_A_HUB = (ValueError, KeyError, TypeError, AttributeError)
"""What comes of reading the page of a proxy, or of a server that is something else."""


@dataclass(frozen=True)
class Listing:
    """The wanted files of a repository at a commit.

    Attributes:
        commit: What branch or tag stands for now.
        sizes: Bytes by file name; None where the hub does not say.
    """

    commit: str
    sizes: Mapping[str, int | None]

    def total_of(self, names: Collection[str]) -> int | None:
        """Return the bytes of some files, None where one is not known."""
        known = [size for name in names if (size := self.sizes[name]) is not None]
        return sum(known) if len(known) == len(names) else None


def fetch_repository(what: str, wanted: HubFiles, emit: Emit) -> Path:
    """Bring files of a repository into the hub's cache and return their snapshot's folder.

    Args:
        what: Names them in messages and in progress.
        wanted: Which files of which repository.
        emit: Takes progress.

    Raises:
        TransferError: They are not to be had, or did not arrive whole. Nothing incomplete or
            unchecked is left where the hub's clients look.
    """
    place = _place(what, wanted)
    try:
        listing = list_files(what, wanted)
        snapshot = repository_folder(wanted) / "snapshots" / listing.commit
        lacking = [name for name in listing.sizes if not (snapshot / name).exists()]
        tracker = Tracker(emit, what, listing.total_of(lacking))
        blobs = [_fetch_blob(name, listing.commit, wanted, place, tracker) for name in lacking]
        for name, blob in zip(lacking, blobs, strict=True):
            link_blob(blob, snapshot / name)
        write_reference(wanted, listing.commit)
        write_names(wanted, listing.commit, listing.sizes)
    except Exception as error:
        if isinstance(error, TransferError) or not is_expected(error):
            raise
        raise explain_failure(place, error) from error
    return snapshot


def list_files(what: str, wanted: HubFiles, *, tries_again: bool = True) -> Listing:
    """Return which of the wanted files the repository has, at the commit of now.

    Args:
        what: Names them in the message.
        wanted: Which files of which repository.
        tries_again: Whether to ask again where the hub is busy or silent.

    Raises:
        TransferError: It does not hold what is needed, or names files that lead elsewhere.
        Exception: Whatever the hub's client raises; see `failures.is_expected`.
    """

    def ask() -> Any:
        return _ask_for_information(place, wanted)

    place = _place(what, wanted)
    info = patiently(ask) if tries_again else ask()
    sizes = {file.rfilename: file.size for file in info.siblings or ()}
    names = _choose(place, wanted, sizes)
    for name in (str(info.sha), *names):
        _refuse_stray(place, name)
    return Listing(str(info.sha), {name: sizes[name] for name in names})


def _ask_for_information(place: Place, wanted: HubFiles) -> Any:
    """Return the hub's answer on a repository; one that is no hub's is an error of ours."""
    try:
        return HfApi(endpoint=endpoint()).repo_info(
            wanted.repo,
            repo_type=wanted.kind,
            revision=wanted.revision,
            timeout=timeout_seconds("HF_HUB_ETAG_TIMEOUT"),
            files_metadata=True,
        )
    except HFValidationError:
        raise
    except _NOT_AS_A_HUB as error:
        raise TransferError(
            f"{place.what} could not be downloaded from {place.label}: it does not answer as a hub "
            f"does ({type(error).__name__}). Check that HF_ENDPOINT is the address of a hub, and "
            "that no proxy answers in its place."
        ) from error


def _choose(place: Place, wanted: HubFiles, names: Iterable[str]) -> list[str]:
    """Return the wanted names, in the repository's order."""
    names = list(names)
    matches = ([n for n in names if fnmatch(n, glob)] for glob in wanted.first_of)
    first = next((found for found in matches if found), [])
    if wanted.first_of and not first:
        raise TransferError(
            f"{place.what} could not be downloaded from {place.label}: it holds none of "
            f"{', '.join(wanted.first_of)}. It has: {', '.join(names[:10]) or 'nothing'}. "
            "Check the name and the revision."
        )
    return [n for n in names if n in first or any(fnmatch(n, glob) for glob in wanted.always)]


def _refuse_stray(place: Place, name: str) -> None:
    """Raise where a name from the network would lead out of the folder it belongs to."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise TransferError(
            f"{place.what} could not be downloaded from {place.label}: it names a file {name!r}, "
            "which would lie outside of the cache. Do not use this repository."
        )


def _fetch_blob(name: str, commit: str, wanted: HubFiles, place: Place, tracker: Tracker) -> Path:
    """Return the blob of a file, checked, which a blob that is there already is too."""
    file = _describe(name, commit, wanted, place)
    if file.path.exists() and find_mismatch(file.path, file.digest):
        file.path.unlink()
    if not file.path.exists():
        download(file, place, tracker.report)
    tracker.finish(file.path.stat().st_size)
    return file.path


def _describe(name: str, commit: str, wanted: HubFiles, place: Place) -> RemoteFile:
    """Return where a file's bytes lie and what they should be.

    The hub's etag is the sha256 of a large file and git's digest of a small one.
    """
    url = hf_hub_url(wanted.repo, name, repo_type=wanted.kind, revision=commit, endpoint=endpoint())
    seconds = timeout_seconds("HF_HUB_ETAG_TIMEOUT")
    metadata = patiently(lambda: get_hf_file_metadata(url, timeout=seconds, endpoint=endpoint()))
    etag = metadata.etag or ""
    if not _PLAIN_NAME.fullmatch(etag):
        raise TransferError(
            f"{place.what} could not be downloaded from {place.label}: {name} has no ETag, by "
            "which content is known. Check that HF_ENDPOINT is the address of a hub."
        )
    return RemoteFile(
        url=metadata.location,
        path=repository_folder(wanted) / "blobs" / etag,
        digest=etag,
        num_bytes=metadata.size,
        headers=_headers(metadata.location),
        describe_again=lambda: _describe(name, commit, wanted, place),
    )


def _headers(url: str) -> dict[str, str]:
    """Return the client's headers; the token goes to the hub alone, not to where it stores."""
    headers = build_hf_headers()
    if urlsplit(url).netloc != urlsplit(endpoint()).netloc:
        headers.pop("authorization", None)
    return dict(headers)


def _place(what: str, wanted: HubFiles) -> Place:
    return Place(what, endpoint(), wanted.repo, wanted.revision, lambda: _revisions(wanted))


def _revisions(wanted: HubFiles) -> tuple[str, ...]:
    """Return branches and tags of a repository; nothing where the hub does not say."""
    url = f"{endpoint()}/api/{wanted.kind}s/{wanted.repo}/refs"
    try:
        answer = get_session().get(url, headers=_headers(url), timeout=timeout_seconds())
        answer.raise_for_status()
        listed = answer.json()
        names = [str(ref["name"]) for kind in ("branches", "tags") for ref in listed.get(kind, ())]
    except Exception as error:
        if not (is_expected(error) or isinstance(error, _NOT_AS_A_HUB)):
            raise
        return ()
    return tuple(names[:_SHOWN_REVISIONS])
