"""Parts of a dataset and what may be asked of them, before any data; draws nothing."""

from collections.abc import Mapping
from types import MappingProxyType

from bench.protocol import find_conflict
from bench.spec import DatasetSpec

PART_ORDER = ("train", "val", "test")
"""Order in which the parts of a dataset are laid out, here and in its pool."""

PART_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "train": "train",
        "training": "train",
        "val": "val",
        "valid": "val",
        "validation": "val",
        "dev": "val",
        "test": "test",
        "testing": "test",
    }
)
"""Part by what folders, files and split columns call it, whatever the case."""


def conflicting_request(spec: DatasetSpec) -> str | None:
    """Return why the sampling a spec asks for cannot be done on any data, or None."""
    if spec.train_examples is not None and spec.shots is not None:
        return "train_examples and shots both set the size of train: keep one of them"
    return find_conflict(spec)
