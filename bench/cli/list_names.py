"""The command of that name."""

from bench.errors import UsageError


def list_names() -> None:
    """Placeholder while the spine is being built."""
    raise UsageError("not built yet")
