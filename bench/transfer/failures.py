"""What went wrong with a download, in one message that says where, what, got and do."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RemoteEntryNotFoundError,
    RevisionNotFoundError,
)

from bench.errors import TransferError
from bench.transfer.settings import timeout_seconds

_AGAIN = "Run it again: what has arrived is kept, and the download goes on from there"
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token that may read it"
_BUSY = (408, 429, 500, 502, 503, 504)
_CLIENT_ERROR = HfHubHTTPError.__bases__[0]
"""Base of all errors of the HTTP client, whose package differs between versions of the hub's."""


class CutOffError(Exception):
    """An answer that ended before its announced end."""


@dataclass(frozen=True)
class Place:
    """Where a download comes from, for messages.

    Attributes:
        what: What is wanted, e.g. ``weights of timm/resnet50.a1_in1k``.
        host: The hub's endpoint, or a plain address.
        repo: Hub repository; None for a plain address.
        revision: Branch, tag or commit; None is ``main``.
        known_revisions: Asks which revisions the repository has.
    """

    what: str
    host: str
    repo: str | None = None
    revision: str | None = None
    known_revisions: Callable[[], tuple[str, ...]] = tuple

    @property
    def label(self) -> str:
        """Repository and revision at the hub in force, or the address."""
        if self.repo is None:
            return self.host
        return f"{self.repo}@{self.revision or 'main'} on {self.host}"


def is_transient(error: Exception) -> bool:
    """Return whether the same request may succeed a moment later."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _BUSY
    return isinstance(error, _CLIENT_ERROR | CutOffError)


def is_refusal(error: HfHubHTTPError) -> bool:
    """Return whether the answer was that access is forbidden."""
    return error.response.status_code in (401, 403)


def is_of_hub(place: Place, error: HfHubHTTPError) -> bool:
    """Return whether the hub itself answered, and not a host where it stores its files."""
    return place.repo is not None and _host(str(error.response.url)) == _host(place.host)


def _host(url: str) -> str:
    return urlsplit(url).netloc


def is_expected(error: Exception) -> bool:
    """Return whether an error is one that a network, a server or a disk may cause."""
    return isinstance(error, _CLIENT_ERROR | CutOffError | OSError | HFValidationError)


def explain_failure(place: Place, error: Exception) -> TransferError:
    """Return the one error for whatever the client, the server or the disk raised.

    Args:
        place: What was wanted from where.
        error: For which `is_expected` holds.
    """
    if isinstance(error, HfHubHTTPError):
        got, do = _explain_answer(place, error)
    elif isinstance(error, CutOffError):
        got, do = str(error), _AGAIN
    elif isinstance(error, _CLIENT_ERROR):
        got, do = _explain_silence(place, error)
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
        got, do = "the disk is full", "Make room, or move the caches with HF_HOME and TORCH_HOME"
    else:
        got, do = _first_line(error), "Check the name, the disk and the network"
    return TransferError(f"{place.what} could not be downloaded from {place.label}: {got}. {do}.")


def _explain_answer(place: Place, error: HfHubHTTPError) -> tuple[str, str]:
    status = error.response.status_code
    if status in _BUSY:
        return f"it answered {status} each time", f"It is down or busy. {_AGAIN}"
    if is_refusal(error) and not is_of_hub(place, error):
        return _explain_refusal(place, error)
    if isinstance(error, GatedRepoError) or status == 403:
        page = f"{place.host}/{place.repo}"
        return f"access is gated ({status})", f"Ask for access at {page}, then {_LOG_IN}"
    if status == 401:
        return (
            "it wants to know who asks (401): it is private, or there is no such thing",
            f"Check the name; if it is private, {_LOG_IN}",
        )
    if isinstance(error, RevisionNotFoundError):
        known = place.known_revisions()
        listed = f"Known: {', '.join(known)}" if known else f"See {place.host}/{place.repo}/tree"
        return f"it has no such revision ({status})", listed
    if isinstance(error, RemoteEntryNotFoundError):
        return f"the file is not there ({status})", "Check the name and the revision"
    if status == 404:
        return "there is no such thing (404)", f"Check the name; if it is private, {_LOG_IN}"
    said = f": {error.server_message}" if error.server_message else ""
    return f"it answered {status}{said}", "Check the name and the address"


def _explain_refusal(place: Place, error: HfHubHTTPError) -> tuple[str, str]:
    who = f"{_host(str(error.response.url))}, where its bytes lie," if place.repo else "it"
    return (
        f"{who} refuses access ({error.response.status_code})",
        f"{_AGAIN}; if it stays so, a proxy on the way may forbid it",
    )


def _explain_silence(place: Place, error: Exception) -> tuple[str, str]:
    names = {base.__name__ for base in type(error).__mro__}
    if "TimeoutException" in names:
        return (
            f"no answer within {_seconds_waited(error)} s, each time",
            f"{_AGAIN}; HF_HUB_DOWNLOAD_TIMEOUT and HF_HUB_ETAG_TIMEOUT set the seconds",
        )
    if "ConnectError" in names or "ProxyError" in names:
        where = "HF_ENDPOINT and HTTPS_PROXY" if place.repo else "HTTPS_PROXY"
        return (
            f"it cannot be reached ({_first_line(error)})",
            f"Check the network, {where}, or bring the files and set HF_HUB_OFFLINE=1",
        )
    return f"the connection broke each time ({_first_line(error)})", _AGAIN


def _seconds_waited(error: Exception) -> str:
    request = getattr(error, "_request", None)
    limits = request.extensions.get("timeout", {}) if request is not None else {}
    return f"{limits.get('read') or timeout_seconds():g}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('. ')}" if lines else type(error).__name__
