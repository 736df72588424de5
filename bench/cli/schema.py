"""The command of that name."""

from bench.errors import UsageError


def schema() -> None:
    """Placeholder while the spine is being built."""
    raise UsageError("not built yet")
