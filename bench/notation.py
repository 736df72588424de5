"""How a suite writes durations and ranges of seeds; knows no field of it."""

import re
from typing import Any

_SEED_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")
_MAX_SEEDS = 10_000
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def parse_duration(value: Any) -> Any:
    """Return seconds for ``90``, ``90s``, ``2h`` or ``1h30m``.

    Raises:
        ValueError: The text is not a duration.
    """
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value.strip())
    if not match or not any(match.groups()):
        raise ValueError(f"'{value}' is not a duration; write 90s, 15m, 2h or 1h30m")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def parse_seed_range(value: Any) -> Any:
    """Return ``0..9`` as the whole numbers from 0 to 9, both included; a list as it is.

    Raises:
        ValueError: The text is not a range, is empty, or has more than 10,000 seeds.
    """
    if not isinstance(value, str):
        return value
    match = _SEED_RANGE.fullmatch(value.strip())
    if not match:
        raise ValueError(
            f"'{value}' is not a range of seeds; write 0..9 for ten of them, or a list"
        )
    first, last = (int(part) for part in match.groups())
    if not first <= last < first + _MAX_SEEDS:
        raise ValueError(f"'{value}' must go up, over at most {_MAX_SEEDS} seeds")
    return tuple(range(first, last + 1))
