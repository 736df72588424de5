"""How large downloads would be, asked of where they lie; several at once, and never for long."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from queue import Empty, Queue
from threading import Thread

from huggingface_hub import get_session
from huggingface_hub.utils import hf_raise_for_status

from bench.errors import TransferError
from bench.interfaces import HubFiles, Origin
from bench.transfer.cache import repository_folder
from bench.transfer.failures import is_expected
from bench.transfer.repository import list_files

_AT_ONCE = 16
_URL_SECONDS = 5.0


def measure_sizes(
    origins: Collection[Origin], *, within_seconds: float = 6.0
) -> Mapping[Origin, int]:
    """Return the bytes of what can be asked for in time; the others are absent.

    A question that was not answered in time holds nothing up, not even the end of the process.

    Args:
        origins: What to ask for.
        within_seconds: For all of them together.
    """
    waiting: Queue[Origin] = Queue()
    answers: Queue[tuple[Origin, int | None]] = Queue()
    for origin in origins:
        waiting.put(origin)
    for _ in range(min(_AT_ONCE, len(origins))):
        Thread(target=_ask_all, args=(waiting, answers), name="sizes", daemon=True).start()
    ends = time.monotonic() + within_seconds
    sizes: dict[Origin, int] = {}
    for _ in origins:
        try:
            origin, size = answers.get(timeout=max(0.0, ends - time.monotonic()))
        except Empty:
            break
        if size is not None:
            sizes[origin] = size
    return sizes


def _ask_all(waiting: Queue[Origin], answers: Queue[tuple[Origin, int | None]]) -> None:
    with suppress(Empty):
        while True:
            origin = waiting.get_nowait()
            answers.put((origin, _measure(origin)))


def _measure(origin: Origin) -> int | None:
    try:
        if isinstance(origin, HubFiles):
            listing = list_files(origin.repo, origin, tries_again=False)
            snapshot = repository_folder(origin) / "snapshots" / listing.commit
            return listing.total_of([n for n in listing.sizes if not (snapshot / n).exists()])
        return _length(origin)
    except Exception as error:
        if isinstance(error, TransferError) or is_expected(error):
            return None  # The size stays unknown; a download would say why.
        raise


def _length(url: str) -> int | None:
    headers = {"Accept-Encoding": "identity"}
    response = get_session().head(url, headers=headers, timeout=_URL_SECONDS)
    hf_raise_for_status(response)
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None
