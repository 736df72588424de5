"""Minimum effects, as people write them, as numbers; knows no measurement."""

import difflib
import math
import re
from collections.abc import Mapping
from types import MappingProxyType

from bench.errors import UsageError

DEFAULT_LIMITS: Mapping[str, float] = MappingProxyType(
    {
        "accuracy": 0.005,
        "macro_f1": 0.01,
        "nll": 0.02,
        "throughput": 0.05,
        "latency": 0.05,
        "memory": 0.02,
    }
)
"""Smallest effect per family that may page anyone: fractions, nats for nll, shares for costs."""

_UNITS = {
    "accuracy": "pt",
    "macro_f1": "pt",
    "nll": "",
    "throughput": "%",
    "latency": "%",
    "memory": "%",
}
_ENTRY = re.compile(r"(?P<name>[a-z0-9_]+)=(?P<number>[0-9]*\.?[0-9]+)(?P<unit>[a-z%]*)")


def parse_min_effects(text: str) -> dict[str, float]:
    """Return the minimum effect per family: those given, and the defaults of the others.

    Args:
        text: ``accuracy=0.5pt,macro_f1=1pt,nll=0.02,throughput=5%,latency=5%,memory=2%`` or a part
            of it: points of a fraction, nats, or percent of the baseline's value.

    Raises:
        UsageError: Not name=value, an unknown or repeated name, a wrong unit, or not above 0 and,
            for points and percent, below 100.
    """
    given: dict[str, float] = {}
    for entry in text.split(",") if text.strip() else []:
        name, value = _parse(entry.strip())
        if name in given:
            raise UsageError(f"minimum effect of {name} is given twice")
        given[name] = value
    return {**DEFAULT_LIMITS, **given}


def _parse(entry: str) -> tuple[str, float]:
    found = _ENTRY.fullmatch(entry)
    if found is None:
        raise UsageError(f"minimum effect {entry!r} is not like accuracy=0.5pt or memory=2%")
    name, unit, number = found["name"], found["unit"], float(found["number"])
    if name not in _UNITS:
        close = difflib.get_close_matches(name, _UNITS, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise UsageError(
            f"unknown metric '{name}' in minimum effects.{hint} Known: {', '.join(_UNITS)}"
        )
    if unit != _UNITS[name]:
        wanted = f"{found['number']}{_UNITS[name]}"
        raise UsageError(f"minimum effect {entry!r} has the wrong unit; write {name}={wanted}")
    if number <= 0 or (unit and number >= 100):
        span = "above 0 and below 100" if unit else "above 0"
        raise UsageError(f"minimum effect {entry!r} is not {span}")
    return name, number / 100 if unit else number


def effect_bounds(limit: float, *, ratio: bool) -> tuple[float, float]:
    """Return the estimates at which a fall and a rise reach a minimum effect.

    Args:
        limit: The minimum effect.
        ratio: Whether estimates are natural logs of ratios; else plain differences.
    """
    return (math.log1p(-limit), math.log1p(limit)) if ratio else (-limit, limit)
