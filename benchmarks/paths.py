"""Which of two paths with one result bench takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bench.strategies import prefix_cache


@contextmanager
def plain() -> Iterator[None]:
    """Have bench take the plain path meanwhile: no activations fit a budget of nothing."""
    budget = prefix_cache.BUDGET_BYTES
    prefix_cache.BUDGET_BYTES = 0
    try:
        yield
    finally:
        prefix_cache.BUDGET_BYTES = budget


def is_plain() -> bool:
    """Return whether the plain path is asked for now."""
    return prefix_cache.BUDGET_BYTES == 0
