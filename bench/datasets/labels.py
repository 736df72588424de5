"""Class names of rows -> class indices, matched by name; knows no file and no modality."""

from __future__ import annotations

import ast
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.datasets.raw import SINGLE_LABEL
from bench.errors import DatasetError

if TYPE_CHECKING:
    import numpy as np

_NAMED_IN_MESSAGE = 5


def read_class_names(values: Sequence[Any], *, column: str, where: str) -> list[str | None]:
    """Return the class name of each row: its value as text, without surrounding blanks.

    Numbers are names like any other: ``1`` and ``01`` are two classes. None stands for a value that
    is empty, null or NaN.

    Args:
        values: As the file has them.
        column: For the message.
        where: File or dataset, for the message.

    Raises:
        DatasetError: A value is a list: an example with several labels.
    """
    names: list[str | None] = []
    for number, value in enumerate(values):
        if _is_list(value):
            refuse_multi_label(f"{where}, row {number}", column, value)
        missing = value is None or (isinstance(value, float) and math.isnan(value))
        names.append(None if missing else str(value).strip() or None)
    return names


def refuse_multi_label(where: str, column: str, value: object) -> None:
    """Refuse a column whose examples have several labels each.

    Raises:
        DatasetError: Always.
    """
    raise DatasetError(
        f"{where}: column '{column}' holds lists of labels ({value}): multi-label, and "
        f"{SINGLE_LABEL}"
    )


def index_classes(
    parts: Mapping[str, Sequence[str]], *, where: str
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Return the classes of train, sorted by name, and each row's index into them, by part.

    Parts may list classes in any order: a class is its name.

    Args:
        parts: Class name of each row, by part; ``train`` is among them.
        where: Dataset, for messages.

    Raises:
        DatasetError: Train has fewer than two classes, or another part one that train lacks.
    """
    import numpy as np

    class_names = tuple(sorted(set(parts["train"])))
    if len(class_names) < 2:
        found = f"one class only, '{class_names[0]}'" if class_names else "no labelled example"
        raise DatasetError(f"{where}: train has {found}. Classification needs two classes or more.")
    index = {name: number for number, name in enumerate(class_names)}
    for part, names in parts.items():
        _refuse_strangers(part, Counter(name for name in names if name not in index), index, where)
    labels = {
        part: np.array([index[name] for name in names], dtype=np.int64)
        for part, names in parts.items()
    }
    return class_names, labels


def _refuse_strangers(
    part: str, strangers: Counter[str], known: Mapping[str, int], where: str
) -> None:
    if not strangers:
        return
    listed = ", ".join(
        f"'{name}' ({count} rows)" for name, count in strangers.most_common(_NAMED_IN_MESSAGE)
    )
    more = len(strangers) - _NAMED_IN_MESSAGE
    raise DatasetError(
        f"{where}: {part} has classes that train lacks: {listed}"
        f"{f' and {more} more' if more > 0 else ''}. Train has: {', '.join(list(known)[:10])}"
        f"{', …' if len(known) > 10 else ''}. Labels are matched by name: rename them, add them to "
        f"train, or leave those rows out."
    )


def _is_list(value: Any) -> bool:
    """Return whether a value is a list, or the text of one, as CSV saves it: ``['a', 'b']``."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            return False
    return isinstance(value, (list, tuple, dict))
