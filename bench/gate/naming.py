"""What a command line calls cells and metrics -> those of a run; knows no store and no record."""

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from bench.errors import UsageError
from bench.gate.values import Metric

_WILDCARDS = frozenset("*?[")
_MOST_NAMED = 8
EVERY = "all"


def select_cells(names: Sequence[str], pattern: str | None, where: str) -> tuple[str, ...]:
    """Return the cells that are called so: by name, by a glob over it or a part, or by a piece.

    Args:
        names: Of cells, ``backbone · dataset · strategy``.
        pattern: What was asked for; None takes all.
        where: What holds the cells, for the message.

    Raises:
        UsageError: None is called so; names some that there are.
    """
    if pattern is None:
        return tuple(names)
    if pattern in names:
        return (pattern,)
    found = tuple(name for name in names if _matches(name, pattern))
    if not found:
        close = get_close_matches(pattern, names, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        listed = "".join(f"\n  {name}" for name in names[:_MOST_NAMED])
        more = len(names) - _MOST_NAMED
        listed += f"\n  and {more} more" if more > 0 else ""
        raise UsageError(f"--cell '{pattern}' is no cell of {where}.{hint} Known:{listed}")
    return found


def _matches(name: str, pattern: str) -> bool:
    globbed = _WILDCARDS & set(pattern)
    if globbed and any(fnmatchcase(part, pattern) for part in (name, *name.split(" · "))):
        return True
    return pattern in name


def parse_metrics(text: str) -> tuple[Metric, ...]:
    """Return the metrics of ``test_accuracy,train_examples_per_second``, or of ``all``.

    Raises:
        UsageError: A name is none; says which there are.
    """
    if text == EVERY:
        return tuple(Metric)
    known = [metric.value for metric in Metric]
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise UsageError(f"unknown metric '{name}'.{hint} Known: {', '.join(known)}")
    return tuple(dict.fromkeys(Metric(name) for name in names))
