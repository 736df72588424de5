"""The environment's word on downloads: which hub, and how long to wait; reads it when asked."""

import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

_DEFAULT_SECONDS = 10.0


def endpoint() -> str:
    """Return the address of the hub in force: ``HF_ENDPOINT`` or the public one."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def timeout_seconds(variable: str = "HF_HUB_DOWNLOAD_TIMEOUT") -> float:
    """Return how long an answer may keep one waiting: 10 s unless the environment says otherwise.

    What is no positive number there counts as nothing.

    Args:
        variable: ``HF_HUB_DOWNLOAD_TIMEOUT`` for bytes, ``HF_HUB_ETAG_TIMEOUT`` for questions.
    """
    try:
        asked = float(os.environ.get(variable, ""))
    except ValueError:
        return _DEFAULT_SECONDS
    return asked if math.isfinite(asked) and asked > 0 else _DEFAULT_SECONDS


@contextmanager
def socket_timeout() -> Iterator[None]:
    """Bound every wait on a socket inside the block, for libraries that would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout_seconds())
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
