"""Base units -> short text for people; an absent value is a dash, never a 0; knows no row."""

ABSENT = "–"


def percent(fraction: float | None, digits: int = 1) -> str:
    """Return ``96.1`` for 0.961."""
    return ABSENT if fraction is None else f"{100 * fraction:.{digits}f}"


def interval(low: float | None, high: float | None) -> str:
    """Return ``95.0–97.0`` for the ends of an interval in [0, 1]."""
    return ABSENT if low is None or high is None else f"{percent(low)}–{percent(high)}"


def rank(low: int | None, high: int | None) -> str:
    """Return ``1``, or ``1–3`` for a rank that is not known better."""
    if low is None or high is None:
        return ABSENT
    return str(low) if low == high else f"{low}–{high}"


def points(difference: float | None) -> str:
    """Return a signed difference of fractions in percentage points: ``+8.2``."""
    return ABSENT if difference is None else f"{100 * difference:+.1f}"


def rate(per_second: float | None) -> str:
    """Return three significant digits: ``820``, ``40.0k``."""
    return ABSENT if per_second is None else _scaled(per_second)


def count(number: float | None) -> str:
    """Return three significant digits with k, M, G or T: ``4.65M``."""
    return ABSENT if number is None else _scaled(number)


def _scaled(value: float) -> str:
    for factor, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * factor:
            return f"{_three_digits(value / factor)}{suffix}"
    return _three_digits(value)


def _three_digits(value: float) -> str:
    size = abs(value)
    if value == int(value) and size < 1000:
        return f"{value:.0f}"
    digits = 0 if size >= 99.95 else 1 if size >= 9.995 else 2
    return f"{value:.{digits}f}"


def milliseconds(seconds: float | None) -> str:
    """Return milliseconds with three significant digits, without the unit."""
    return ABSENT if seconds is None else _three_digits(1000 * seconds)


def megabytes(num_bytes: float | None) -> str:
    """Return MiB without the unit: whole ones, or two digits below ten."""
    if num_bytes is None:
        return ABSENT
    value = num_bytes / (1 << 20)
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"


def extent(num_bytes: int, total_bytes: int | None) -> str:
    """Return ``12 of 98 MiB``, or ``12 MiB`` where the whole is not known."""
    of = "" if total_bytes is None else f" of {megabytes(total_bytes)}"
    return f"{megabytes(num_bytes)}{of} MiB"


def duration(seconds: float | None) -> str:
    """Return ``8.2s``, ``95s``, ``12m 05s`` or ``3h 20m``."""
    if seconds is None:
        return ABSENT
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    if seconds < 119.5:
        return f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes}m {rest:02d}s"
    return f"{minutes // 60}h {minutes % 60:02d}m"


def printable(text: str) -> str:
    """Return the text without control characters: a class name must not steer a terminal."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)
