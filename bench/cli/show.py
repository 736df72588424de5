"""The command of that name."""

from bench.errors import UsageError


def show() -> None:
    """Placeholder while the spine is being built."""
    raise UsageError("not built yet")


def explain() -> None:
    """Placeholder while the spine is being built."""
    raise UsageError("not built yet")
