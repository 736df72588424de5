"""Which of two paths with one result bench takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec

_PREFIX = "bench.strategies.prefix"


def has_prefix_cache() -> bool:
    """Return whether this version trains `partial` from activations at the cut."""
    return find_spec(_PREFIX) is not None


@contextmanager
def plain() -> Iterator[None]:
    """Have bench take the plain path meanwhile: no activations fit a budget of nothing."""
    if not has_prefix_cache():
        yield
        return
    prefix = import_module(_PREFIX)
    budget = prefix.BUDGET_BYTES
    prefix.BUDGET_BYTES = 0
    try:
        yield
    finally:
        prefix.BUDGET_BYTES = budget


def is_plain() -> bool:
    """Return whether the plain path is asked for now."""
    return has_prefix_cache() and import_module(_PREFIX).BUDGET_BYTES == 0
