"""Features of the `datasets` library -> which columns are input and label; reads no row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from bench.datasets.labels import refuse_multi_label
from bench.datasets.layout import INPUTS
from bench.errors import DatasetError
from bench.interfaces import Modality
from bench.spec import DatasetSpec

_LABEL_NAMES = ("label", "labels")
_TEXT_TYPES = ("string", "large_string")


@dataclass(frozen=True)
class Columns:
    """The columns that make an example.

    Attributes:
        class_names: Of a `ClassLabel`, in its own order; None where the column holds the names.
    """

    modality: Modality
    input: str
    label: str
    class_names: tuple[str, ...] | None


def choose_columns(spec: DatasetSpec, features: Mapping[str, Any], where: str) -> Columns:
    """Return the columns that the spec names, or else those that their types tell.

    The label is the one `ClassLabel`, or a column named ``label``. The input is the one image, else
    the one clip, else the one text beside the label.

    Args:
        spec: May name columns.
        features: Of the `datasets` library, by column.
        where: For messages.

    Raises:
        DatasetError: A column is not there, of another type than said, one of several, or holds
            lists of labels.
    """
    label = _choose_label(spec, features, where)
    kind = features[label]
    if _type_name(kind) in ("List", "LargeList", "Sequence") or isinstance(kind, list):
        refuse_multi_label(where, label, str(kind))
    modality, column = _choose_input(spec, features, label, where)
    names = tuple(kind.names) if _type_name(kind) == "ClassLabel" else None
    return Columns(modality=modality, input=column, label=label, class_names=names)


def _choose_label(spec: DatasetSpec, features: Mapping[str, Any], where: str) -> str:
    if spec.label_column:
        _require(spec.label_column, features, where)
        return spec.label_column
    found = [name for name, kind in features.items() if _type_name(kind) == "ClassLabel"]
    if len(found) != 1:
        found = [name for name in _LABEL_NAMES if name in features] or found
    if len(found) == 1:
        return found[0]
    raise DatasetError(
        f"{where} has {'several columns' if found else 'no column'} of classes"
        f"{': ' + ', '.join(found) if found else ''}. Say which one with label:. "
        f"Known: {_listed(features)}."
    )


def _choose_input(
    spec: DatasetSpec, features: Mapping[str, Any], label: str, where: str
) -> tuple[Modality, str]:
    for modality in INPUTS:
        column = getattr(spec, modality)
        if column:
            _require(column, features, where)
            if modality != _modality_of(features[column]):
                raise DatasetError(
                    f"{where}: column '{column}' holds no {modality}: {features[column]}."
                )
            return modality, column
    by_modality: dict[Modality, list[str]] = {"image": [], "audio": [], "text": []}
    for name, kind in features.items():
        own = _modality_of(kind)
        if name != label and own is not None:
            by_modality[own].append(name)
    held = [(modality, names) for modality, names in by_modality.items() if names]
    if held and len(held[0][1]) == 1:
        return held[0][0], held[0][1][0]
    found = held[0][1] if held else []
    raise DatasetError(
        f"{where} has {'several columns' if found else 'no column'} that can be the input"
        f"{': ' + ', '.join(found) if found else ''}. Say which one with text:, image: or audio:. "
        f"Known: {_listed(features)}."
    )


def _require(name: str, features: Mapping[str, Any], where: str) -> None:
    if name not in features:
        close = get_close_matches(name, list(features), n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise DatasetError(f"{where} has no column '{name}'.{hint} Known: {_listed(features)}.")


def _modality_of(kind: Any) -> Modality | None:
    match _type_name(kind):
        case "Image":
            return "image"
        case "Audio":
            return "audio"
        case "Value" if kind.dtype in _TEXT_TYPES:
            return "text"
    return None


def _type_name(kind: Any) -> str:
    return type(kind).__name__


def _listed(features: Mapping[str, Any]) -> str:
    return ", ".join(features)
