"""How far a download is, said a few times a second; knows no display."""

import time
from collections.abc import Callable

from bench.interfaces import Emit
from bench.record import Progress

_SECONDS_BETWEEN = 0.25


def silent(_: Progress) -> None:
    """Tell nobody."""


class Tracker:
    """Adds up the bytes of one item's files and announces them."""

    def __init__(
        self,
        emit: Emit,
        item: str,
        total_bytes: int | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Announce that an item is being fetched.

        Args:
            emit: Takes the announcements.
            item: What is fetched, for people.
            total_bytes: Of all its files, where known.
            clock: Seconds; an announcement follows another after a quarter of one.
        """
        self._emit = emit
        self._item = item
        self._total = total_bytes
        self._clock = clock
        self._finished = 0
        self._next = 0.0
        self._announce(0)

    def report(self, num_bytes: int) -> None:
        """Take how many bytes of the current file are here."""
        if self._clock() >= self._next:
            self._announce(self._finished + num_bytes)

    def finish(self, num_bytes: int) -> None:
        """Take that a file is here, and its size."""
        self._finished += num_bytes
        self._announce(self._finished)

    def _announce(self, num_bytes: int) -> None:
        self._next = self._clock() + _SECONDS_BETWEEN
        self._emit(
            Progress(
                phase="download", item=self._item, num_bytes=num_bytes, total_bytes=self._total
            )
        )
