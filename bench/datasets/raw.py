"""Parts of a source -> one dataset with its fingerprint; knows no format and draws no split."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.digests import digest_strings, digest_value
from bench.errors import DatasetError
from bench.interfaces import Examples, RawDataset

MAX_NAMED = 100
"""Names of unreadable examples that a record keeps."""

SINGLE_LABEL = (
    "bench scores single-label classification: each example has exactly one class. "
    "For one attribute of several, make a dataset whose classes are its values."
)
"""What is said to data of another kind."""

_NAMED_IN_MESSAGE = 5


def number_ids(prefix: str, count: int) -> tuple[str, ...]:
    """Return ``prefix`` with a zero-padded number, so that the order of text is that of numbers."""
    return tuple(f"{prefix}{index:06d}" for index in range(count))


def fingerprint_parts(parts: Mapping[str, Examples]) -> str:
    """Return the digest of ids, labels and contents of all parts; where they lie is not in it."""
    import numpy as np

    digests = {}
    for name, examples in sorted(parts.items()):
        labels = np.ascontiguousarray(examples.labels, dtype="<i8")
        digests[name] = [
            digest_strings(examples.ids),
            hashlib.sha256(labels.tobytes()).hexdigest(),
            digest_strings(examples.contents),
        ]
    return digest_value(digests)


def assemble_dataset(
    name: str,
    class_names: Sequence[str],
    parts: Mapping[str, Examples],
    corrupt: Sequence[str] = (),
) -> RawDataset:
    """Return the dataset with its fingerprint and at most 100 names of unreadable examples.

    Args:
        name: As in the suite.
        class_names: In the order of the class indices.
        parts: ``train``, and ``val`` and ``test`` where the source has them.
        corrupt: Names of every example that was left out.

    Raises:
        DatasetError: Two examples share an id, which would join them in paired tests, or an example
            has several labels.
    """
    import numpy as np

    for part, examples in parts.items():
        if np.ndim(examples.labels) != 1:
            raise DatasetError(
                f"{name}: labels of {part} have shape {np.shape(examples.labels)}, and "
                f"{SINGLE_LABEL}"
            )
    ids = [id_ for examples in parts.values() for id_ in examples.ids]
    if len(set(ids)) != len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise DatasetError(f"{name}: two examples have the id '{twice}'; ids must be unique.")
    return RawDataset(
        name=name,
        class_names=tuple(class_names),
        parts=dict(parts),
        fingerprint=fingerprint_parts(parts),
        num_corrupt=len(corrupt),
        corrupt=tuple(corrupt[:MAX_NAMED]),
    )


def refuse_corrupt(
    where: str | Path, unreadable: Mapping[str, str], total: int, allowed: float
) -> None:
    """Refuse a dataset of which too much cannot be read.

    Args:
        where: The dataset or its folder, for the message.
        unreadable: Reason by name of the example.
        total: How many examples there are, unreadable ones included.
        allowed: Share that may be unreadable, in [0, 1].

    Raises:
        DatasetError: More is unreadable; names the first few with their reasons.
    """
    if not unreadable or len(unreadable) <= allowed * total:
        return
    named = [f"{name} ({reason})" for name, reason in list(unreadable.items())[:_NAMED_IN_MESSAGE]]
    more = len(unreadable) - len(named)
    listed = ", ".join(named) + (f" and {more} more" if more else "")
    raise DatasetError(
        f"{where}: {len(unreadable)} of {total} examples cannot be read, more than "
        f"max_corrupt_fraction {allowed:g} allows: {listed}. "
        "Repair or remove them, or raise max_corrupt_fraction."
    )
