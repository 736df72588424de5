"""Data that ship inside installed packages, found without importing these; reads none."""

from importlib.util import find_spec
from pathlib import Path


def package_file(package: str, relative: str) -> Path | None:
    """Return the path of a file inside an installed package, without importing the package.

    Args:
        package: Top-level import name.
        relative: Path below the package's folder.

    Returns:
        None when the package or the file is not there.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / relative
    return path if path.is_file() else None
