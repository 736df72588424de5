"""The command of that name."""

from bench.errors import UsageError


def doctor() -> None:
    """Placeholder while the spine is being built."""
    raise UsageError("not built yet")
