"""The command of that name."""

from bench.errors import UsageError


def plan() -> None:
    """Placeholder while the spine is being built."""
    raise UsageError("not built yet")
