"""Seconds over an injected clock, by phase; knows not what a phase does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from bench.interfaces import Emit
from bench.record import Progress

_TICK_SECONDS = 1.0


class Clock(Protocol):
    """Seconds that only ever grow, from an arbitrary origin; `time.perf_counter` is one."""

    def __call__(self) -> float:
        """Return the seconds since the origin."""
        ...


class FakeClock:
    """A clock that stands still until it is told to advance, for tests."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds

    def __call__(self) -> float:
        """Return the seconds it was set to."""
        return self._seconds

    def advance(self, seconds: float) -> None:
        """Let that many seconds pass."""
        self._seconds += seconds


class Ticker:
    """Tells how far a phase is, at most once a second; a phase that is short says nothing."""

    def __init__(self, phase: str, total: int, emit: Emit, clock: Clock) -> None:
        """Begin with nothing done.

        Args:
            phase: As it was announced.
            total: Examples to do.
            emit: Takes the progress.
            clock: Where seconds come from.
        """
        self._progress = Progress(phase=phase, num_done=0, num_total=total)
        self._emit = emit
        self._clock = clock
        self._done = 0
        self._told = clock()

    def add(self, count: int) -> None:
        """Count examples that are done."""
        self._done += count
        if self._clock() - self._told >= _TICK_SECONDS:
            self._told = self._clock()
            self._emit(self._progress.model_copy(update={"num_done": self._done}))


@dataclass
class _Open:
    name: str
    resumed: float


class Phases:
    """Wall seconds by phase of a cell; phases nest, each counts only its own time."""

    def __init__(self, clock: Clock, emit: Emit) -> None:
        """Measure nothing yet.

        Args:
            clock: Where seconds come from.
            emit: Told when a phase begins, and when an outer one goes on.
        """
        self._clock = clock
        self._emit = emit
        self._seconds: dict[str, float] = {}
        self._stack: list[_Open] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase; an exception ends it too, and its seconds count.

        After an exception the outer phase is not announced again: what was announced last is where
        the cell failed.
        """
        self._account()
        self._stack.append(_Open(name, self._clock()))
        self._seconds.setdefault(name, 0.0)
        self._emit(Progress(phase=name))
        try:
            yield
        finally:
            self._account()
            self._stack.pop()
            if self._stack:
                self._stack[-1].resumed = self._clock()
        if self._stack:
            self._emit(Progress(phase=self._stack[-1].name))

    def seconds(self) -> dict[str, float]:
        """Return seconds by phase so far, in the order of their first start, open ones included."""
        self._account()
        return dict(self._seconds)

    def _account(self) -> None:
        if self._stack:
            now = self._clock()
            top = self._stack[-1]
            self._seconds[top.name] += now - top.resumed
            top.resumed = now
