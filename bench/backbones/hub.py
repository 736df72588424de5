"""Weights files on this machine, fetched if allowed; knows no model.

What is in a cache is used as it is, without asking the network whether there is something newer:
the same suite gives the same numbers tomorrow. Finding needs no network and no torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlparse

from bench.digests import digest_file
from bench.environment import find_snapshot, hub_cache_dir, is_offline
from bench.errors import BackboneError, WeightsMissingError
from bench.interfaces import Emit, HubFiles, Missing
from bench.transfer.cache import torch_checkpoint_dir
from bench.transfer.tracking import Tracker, silent

_HASH_IN_NAME = re.compile(r"-([a-f0-9]{8,64})\.")


def find_hub_file(repo: str, filenames: Sequence[str], revision: str | None = None) -> Path | None:
    """Return the first of some files that is in the hub's cache, whole, or None."""
    snapshot = find_snapshot(repo, revision)
    paths = (snapshot / name for name in filenames) if snapshot else ()
    return next((path for path in paths if path.is_file()), None)


def missing_from_hub(wanted: HubFiles) -> Missing:
    """Return what to download from the hub, and the command that does it."""
    names = (*wanted.always, *wanted.first_of[:1])
    exact = "" if any("*" in name for name in names) else " ".join(("", *names))
    flag = f" --revision {wanted.revision}" if wanted.revision else ""
    command = f"hf download {wanted.repo}{exact}{flag}"
    return Missing(
        what=_weights_of(wanted),
        how=f"on a machine with network run `{command}`, or `bench fetch` for all of a suite, copy "
        f"its hub cache to {hub_cache_dir()} if that is another machine, and set HF_HUB_OFFLINE=1",
        downloadable=not is_offline(),
        origin=wanted,
    )


def _weights_of(wanted: HubFiles) -> str:
    return f"weights of {wanted.repo}"


def missing_file(what: str, url: str, num_bytes: int | None = None) -> Missing:
    """Return what to download from a plain address, and where to put it."""
    return Missing(
        what=what,
        how=f"download {url} to {torch_checkpoint_dir() / url_filename(url)} (TORCH_HOME moves it)",
        num_bytes=num_bytes,
        downloadable=not is_offline(),
        origin=url,
    )


def explain_missing(missing: Missing, reason: str) -> WeightsMissingError:
    """Return the error for weights that cannot be had, with the same words as `locate`."""
    return WeightsMissingError(
        f"{missing.what} are not on this machine and {reason}: {missing.how}."
    )


def fetch_from_hub(wanted: HubFiles, emit: Emit = silent) -> Path:
    """Download files of a hub repository into the cache; return their snapshot's folder.

    Args:
        wanted: Which files of which repository.
        emit: Takes progress.

    Raises:
        WeightsMissingError: Downloads are forbidden here.
        TransferError: They are not to be had, or did not arrive whole.
    """
    if is_offline():
        raise explain_missing(missing_from_hub(wanted), "HF_HUB_OFFLINE is set")
    from bench.transfer.repository import fetch_repository

    return fetch_repository(_weights_of(wanted), wanted, emit)


def url_filename(url: str) -> str:
    """Return the file name that torch.hub gives to a download."""
    return Path(urlparse(url).path).name


def fetch_url(what: str, url: str, num_bytes: int | None = None, emit: Emit = silent) -> Path:
    """Return a plain download: from torch.hub's cache, else downloaded into it and verified.

    A download goes to a partial file, from which a later try goes on, and is moved into place only
    when its digest agrees with the one in its name.

    Args:
        what: Names it in messages and in progress.
        url: Its address.
        num_bytes: About how large it is, where known.
        emit: Takes progress.

    Raises:
        WeightsMissingError: Not cached, and downloads are forbidden here.
        TransferError: It is not to be had, or did not arrive whole.
    """
    path = torch_checkpoint_dir() / url_filename(url)
    if path.is_file():
        return path
    if is_offline():
        raise explain_missing(missing_file(what, url, num_bytes), "HF_HUB_OFFLINE is set")
    from bench.transfer.failures import Place
    from bench.transfer.files import RemoteFile, download

    match = _HASH_IN_NAME.search(path.name)
    file = RemoteFile(url, path, digest=match.group(1) if match else None)
    tracker = Tracker(emit, what, num_bytes)
    download(file, Place(what, url), tracker.report)
    tracker.finish(path.stat().st_size)
    return path


def describe_file(path: Path) -> str:
    """Return a file's name, and whether its bytes agree with the digest in that name.

    torch.hub verifies a download but not a file found in its cache. Such a file is used, since
    people put their own weights there, but the record must not call it the published one.
    """
    match = _HASH_IN_NAME.search(path.name)
    if match is None:
        return path.name
    digest = digest_file(path)
    if digest.startswith(match.group(1)):
        return f"{path.name}, digest verified"
    return f"{path.name}, NOT the published file: sha256 begins {digest[:8]}"


def local_file(path_text: str, *, name: str) -> Path:
    """Return an existing file that a suite names; ``~`` is the home folder.

    Raises:
        BackboneError: There is no such file.
    """
    path = Path(path_text).expanduser()
    if not path.exists():
        raise BackboneError(f"{name}: checkpoint {path} does not exist.")
    return path
