"""Values -> positions on an axis, with ticks at round numbers; knows no drawing."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

_CLOSEST = 0.12


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where, as a share of its length in [0, 1], and what it says."""

    share: float
    text: str


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`, in powers of ten where `log`."""

    low: float
    high: float
    log: bool

    def share(self, value: float) -> float:
        """Return where a value lies, 0 at the low end and 1 at the high one."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        return (self._scaled(value) - low) / (high - low)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def ticks(self, text: Callable[[float], str], most: int = 6) -> list[Tick]:
        """Return ticks at round values within the axis.

        Args:
            text: Value -> what its tick says.
            most: Ticks at most.
        """
        values = _log_ticks(self.low, self.high, most) if self.log else []
        if len(values) < 2:  # A short axis in powers of ten may hold no round one.
            values = self._linear_ticks(most)
        return _apart([Tick(self.share(value), text(value)) for value in values])

    def _linear_ticks(self, most: int) -> list[float]:
        step = _round_step((self.high - self.low) / most)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


def linear_axis(
    values: Sequence[float], *, least: float = -math.inf, most: float = math.inf
) -> Axis:
    """Return an axis that holds all values with some room, within [least, most].

    Args:
        values: At least one, finite.
        least: The low end is never below.
        most: The high end is never above.
    """
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or max(abs(high), 1.0) * 0.02
    return Axis(max(least, low - room), min(most, high + room), log=False)


def robust_floor(values: Sequence[float]) -> float:
    """Return the value under which an axis need not reach: what lies below would flatten the rest.

    That is the highest value less four times its distance to the median, and at least 0.25 less: an
    axis over a quarter of all accuracies still tells half a point apart.

    Args:
        values: At least one; higher is better.
    """
    highest = max(values)
    return highest - max(4 * (highest - median(values)), 0.25)


def log_axis(values: Sequence[float]) -> Axis:
    """Return an axis in powers of ten that holds all values, each above 0, with some room."""
    low, high = math.log10(min(values)), math.log10(max(values))
    room = max(0.08 * (high - low), 0.12)
    return Axis(10 ** (low - room), 10 ** (high + room), log=True)


def _apart(ticks: Sequence[Tick]) -> list[Tick]:
    """Leave out ticks whose texts would run into the one before: powers of ten crowd upwards."""
    kept: list[Tick] = []
    for tick in ticks:
        if not kept or tick.share - kept[-1].share >= _CLOSEST:
            kept.append(tick)
    return kept


def _round_step(rough: float) -> float:
    base = 10.0 ** math.floor(math.log10(rough))
    return next(base * factor for factor in (1, 2, 5, 10) if base * factor >= rough * 0.999)


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    """Return 1, 2, 5 x powers of ten, or as many powers alone as leave at most `most`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        values = [f * 10.0**power for power in powers for f in factors]
        inside = [value for value in values if low <= value <= high]
        if len(inside) <= most:
            return inside
    return inside[:: math.ceil(len(inside) / most)]
