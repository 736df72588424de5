"""Weights files on this machine, fetched if allowed; knows the caches' layout, no model.

What is in a cache is used as it is, without asking the network whether there is something newer:
the same suite gives the same numbers tomorrow. Finding needs no network and no torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlparse

from bench.digests import digest_file
from bench.environment import find_snapshot, hub_cache_dir, is_offline, user_cache_dir
from bench.errors import BackboneError, WeightsMissingError
from bench.interfaces import Missing

_HASH_IN_NAME = re.compile(r"-([a-f0-9]{8,64})\.")


def torch_checkpoint_dir() -> Path:
    """Return the folder of torch.hub's plain downloads: ``TORCH_HOME/hub/checkpoints``."""
    home = os.environ.get("TORCH_HOME")
    return (Path(home).expanduser() if home else user_cache_dir() / "torch") / "hub" / "checkpoints"


def find_hub_file(repo: str, filenames: Sequence[str], revision: str | None = None) -> Path | None:
    """Return the first of some files that is in the hub's cache, whole, or None."""
    snapshot = find_snapshot(repo, revision)
    paths = (snapshot / name for name in filenames) if snapshot else ()
    return next((path for path in paths if path.is_file()), None)


def missing_from_hub(repo: str, filename: str, revision: str | None = None) -> Missing:
    """Return what to download from the hub, and the command that does it."""
    flag = f" --revision {revision}" if revision else ""
    command = f"hf download {repo} {filename}".rstrip() + flag
    return Missing(
        what=f"weights of {repo}",
        how=f"on a machine with network run `{command}`, copy its hub cache to {hub_cache_dir()} "
        "if that is another machine, and set HF_HUB_OFFLINE=1",
        downloadable=not is_offline(),
    )


def missing_file(what: str, url: str, num_bytes: int | None = None) -> Missing:
    """Return what to download from a plain address, and where to put it."""
    return Missing(
        what=what,
        how=f"download {url} to {torch_checkpoint_dir() / url_filename(url)} (TORCH_HOME moves it)",
        num_bytes=num_bytes,
        downloadable=not is_offline(),
    )


def explain_missing(missing: Missing, reason: str) -> WeightsMissingError:
    """Return the error for weights that cannot be had, with the same words as `locate`."""
    return WeightsMissingError(
        f"{missing.what} are not on this machine and {reason}: {missing.how}."
    )


def fetch_hub_file(repo: str, filenames: Sequence[str], revision: str | None = None) -> Path:
    """Return a file of a hub repository: from the cache, else downloaded into it.

    Args:
        repo: ``owner/name``.
        filenames: In order of preference; the first that the repository has.
        revision: Branch, tag or full commit; None is ``main``.

    Raises:
        WeightsMissingError: Not cached, and offline or not to be fetched.
    """
    cached = find_hub_file(repo, filenames, revision)
    if cached is not None:
        return cached
    missing = missing_from_hub(repo, filenames[0], revision)
    if is_offline():
        raise explain_missing(missing, "HF_HUB_OFFLINE is set")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    for name in filenames:
        try:
            path = hf_hub_download(repo, name, revision=revision, cache_dir=hub_cache_dir())
            return Path(path)
        except RemoteEntryNotFoundError:
            continue
        except (OSError, ValueError) as error:
            # Every network, permission and name error of the hub's client is one of these two.
            raise explain_missing(missing, _reason(error)) from error
    raise explain_missing(missing, f"the hub has none of {', '.join(filenames)} there")


def fetch_snapshot(
    missing: Missing, repo: str, patterns: Sequence[str], revision: str | None = None
) -> None:
    """Download the files of a hub repository that match some patterns into the cache.

    Args:
        missing: Words for the error.
        repo: ``owner/name``.
        patterns: Globs of file names.
        revision: Branch, tag or full commit; None is ``main``.

    Raises:
        WeightsMissingError: Offline or not to be fetched.
    """
    if is_offline():
        raise explain_missing(missing, "HF_HUB_OFFLINE is set")
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(
            repo, revision=revision, allow_patterns=list(patterns), cache_dir=hub_cache_dir()
        )
    except (OSError, ValueError) as error:
        raise explain_missing(missing, _reason(error)) from error


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"the download failed ({type(error).__name__}: {lines[0] if lines else ''})"


def url_filename(url: str) -> str:
    """Return the file name that torch.hub gives to a download."""
    return Path(urlparse(url).path).name


def fetch_url(what: str, url: str, num_bytes: int | None = None) -> Path:
    """Return a plain download: from torch.hub's cache, else downloaded into it and verified.

    A download goes to a temporary file and is moved into place only when its digest agrees with
    the one in its name, so that an interruption leaves no broken cache.

    Raises:
        WeightsMissingError: Not cached, and offline or not to be fetched.
    """
    path = torch_checkpoint_dir() / url_filename(url)
    if path.is_file():
        return path
    missing = missing_file(what, url, num_bytes)
    if is_offline():
        raise explain_missing(missing, "HF_HUB_OFFLINE is set")
    from torch.hub import download_url_to_file

    match = _HASH_IN_NAME.search(path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        download_url_to_file(url, str(path), match.group(1) if match else None, progress=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise explain_missing(missing, _reason(error)) from error
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
