"""Steps and drifts in a series of nightly values with gaps; knows no metric and no good or bad.

The series is read from its start, and what is found at a night rests on the nights up to the one
that confirms it: nights that come later never move or remove a finding.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from statistics import median

from bench.errors import UsageError

_TO_SIGMA = 1.4826
"""Median absolute deviation -> standard deviation of a normal distribution."""

_LEAST_JUMP = 0.6
"""A step covers at least this share of the way from the old level at once."""


class ChangeKind(StrEnum):
    """What a series did: jump to another level, move there slowly, or get a level accepted."""

    STEP = "step"
    DRIFT = "drift"
    ACCEPTED = "accepted"


@dataclass(frozen=True)
class Change:
    """A change of level.

    Attributes:
        kind: Step, drift, or a level accepted with a reason.
        position: Index into the series of the first value at the new level; of a drift, of the
            first value that had left the old level for good.
        before: Median of the old level.
        after: Median of the values that confirmed the new level.
        reason: Why the level was accepted, else None.
    """

    kind: ChangeKind
    position: int
    before: float
    after: float
    reason: str | None = None


@dataclass(frozen=True)
class ShiftSettings:
    """When a change counts.

    Attributes:
        confirm: So many measured values in a row must lie off the level, on one side: one or two
            are a spike.
        sigmas: How far off, in standard deviations of night to night.
        least: How far off at least, in units of the series, whatever the deviations.
        reference: Measured values that a level needs before anything can be off it; the series as
            a whole needs twice as many.
        accepted: Position -> reason: the level from there on is the new reference.
    """

    confirm: int = 3
    sigmas: float = 3.0
    least: float = 0.0
    reference: int = 5
    accepted: Mapping[int, str] = field(default_factory=dict)


def find_changes(
    values: Sequence[float | None], settings: ShiftSettings | None = None
) -> tuple[Change, ...]:
    """Return every change of level in a series, each once, in order.

    Night-to-night noise is the median absolute difference of neighbours: neither a step, nor a
    spike, nor a drift moves it. It is 0 where most nights repeat the one before, so give `least`.
    Where the values before were on their way already, the change is a drift; a drift that goes on
    is one change.

    Args:
        values: One per night, oldest first; None where nothing was measured.
        settings: When a change counts.

    Raises:
        UsageError: An accepted position outside the series, or accepted without a reason.

    Source: median and MAD as in Leys et al., 2013; Theil, 1950, and Sen, 1968, for the line; noise
    from neighbours as in von Neumann, 1941.
    """
    settings = settings or ShiftSettings()
    _check(len(values), settings)
    scan = _Scan(settings)
    for position, value in enumerate(values):
        if position in settings.accepted:
            scan.accept(position, settings.accepted[position])
        if value is not None:
            scan.add(position, value)
    return tuple(scan.finished())


def levels(
    values: Sequence[float | None], changes: Sequence[Change]
) -> tuple[tuple[float, ...], ...]:
    """Return the measured values of each level between steps, for `between_run_noise`.

    Args:
        values: The series.
        changes: What `find_changes` found in it.
    """
    cuts = [0, *(change.position for change in changes), len(values)]
    return tuple(
        tuple(value for value in values[start:end] if value is not None)
        for start, end in pairwise(cuts)
    )


def _check(length: int, settings: ShiftSettings) -> None:
    for position, reason in settings.accepted.items():
        if not 0 <= position < length:
            raise UsageError(
                f"accepted level at position {position}, but the series has {length} values"
            )
        if not reason.strip():
            raise UsageError(f"the level at position {position} was accepted without a reason")


@dataclass(frozen=True)
class _Point:
    position: int
    value: float


class _Scan:
    """The series so far: the points of the current level, and the changes before it."""

    def __init__(self, settings: ShiftSettings) -> None:
        self._settings = settings
        self._seen: list[float] = []
        self._level: list[_Point] = []
        self._changes: list[Change] = []
        self._pending: Change | None = None

    def accept(self, position: int, reason: str) -> None:
        """Start a new level here; its value is filled in when it is known."""
        before = median(point.value for point in self._level) if self._level else math.nan
        self._settle()
        self._pending = Change(ChangeKind.ACCEPTED, position, before, math.nan, reason)
        self._level = []

    def add(self, position: int, value: float) -> None:
        """Take the next measured value."""
        self._seen.append(value)
        self._level.append(_Point(position, value))
        change = self._change()
        if change is None:
            return
        confirm = self._settings.confirm
        self._settle()
        if not self._goes_on(change, len(self._level) - confirm):
            self._changes.append(change)
        self._level = self._level[-confirm:]

    def finished(self) -> list[Change]:
        """Return the changes, the last accepted level included."""
        self._settle()
        return self._changes

    def _settle(self) -> None:
        if self._pending is not None and self._level:
            after = median(point.value for point in self._level)
            pending = self._pending
            self._changes.append(
                Change(pending.kind, pending.position, pending.before, after, pending.reason)
            )
        self._pending = None

    def _change(self) -> Change | None:
        """Return the change that the last values confirm, if they do."""
        confirm = self._settings.confirm
        old, new = self._level[:-confirm], self._level[-confirm:]
        reference = self._settings.reference
        # The noise of few nights is too often far too small.
        if len(old) < reference or len(self._seen) < 2 * reference + confirm:
            return None
        centre = median(point.value for point in old)
        margin = self._margin()
        offsets = [point.value - centre for point in new]
        off = all(o > margin for o in offsets) or all(o < -margin for o in offsets)
        if not off:
            return None
        after = median(point.value for point in new)
        if abs(new[0].value - after) > abs(new[0].value - centre):
            # An outlier of the old level, next to the first night of the new one.
            return None
        drifts = _is_drift(old[-reference - confirm :], new, centre)
        kind = ChangeKind.DRIFT if drifts else ChangeKind.STEP
        return Change(kind, new[0].position, centre, after)

    def _goes_on(self, change: Change, num_old: int) -> bool:
        """Return whether a drift only continues the one found last, if no jump stands out."""
        last = self._changes[-1] if self._changes else None
        if last is None or last.kind is not ChangeKind.DRIFT:
            return False
        same_way = (change.after > change.before) == (last.after > last.before)
        far = abs(change.after - change.before) > 2 * self._margin()
        stopped = num_old > 6 * self._settings.reference
        if not same_way or stopped or (far and change.kind is ChangeKind.STEP):
            return False
        self._changes[-1] = Change(last.kind, last.position, last.before, change.after)
        return True

    def _margin(self) -> float:
        steps = [abs(b - a) for a, b in pairwise(self._seen)]
        sigma = _TO_SIGMA * median(steps) / math.sqrt(2)
        return max(self._settings.sigmas * sigma, self._settings.least)


def _is_drift(recent: Sequence[_Point], new: Sequence[_Point], centre: float) -> bool:
    """Return whether the old level's last values were on their way already.

    Either they had left its centre for a good part of the way, or one line through them and the
    new values leaves less absolute error than two levels.
    """
    after = median(point.value for point in new)
    jump = after - median(point.value for point in recent)
    if jump / (after - centre) < _LEAST_JUMP:
        return True
    points = [*recent, *new]
    slopes = [
        (b.value - a.value) / (b.position - a.position)
        for index, a in enumerate(points)
        for b in points[index + 1 :]
    ]
    slope = median(slopes)
    middle = median(point.value - slope * point.position for point in points)
    line = sum(abs(point.value - slope * point.position - middle) for point in points)
    return line < _spread(recent) + _spread(new)


def _spread(points: Sequence[_Point]) -> float:
    centre = median(point.value for point in points)
    return sum(abs(point.value - centre) for point in points)
