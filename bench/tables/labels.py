"""Cells -> labels that tell every two of them apart; knows no record."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.spec import Cell


@dataclass(frozen=True)
class Labels:
    """What a cell is called in a table, its seed apart."""

    backbone: str
    dataset: str
    strategy: str


def label_cells(cells: Iterable[Cell]) -> list[Labels]:
    """Return each cell's labels, in the order given.

    A label is the plain name where that is unique among the cells; else it says in what they
    differ: ``partial (trainable_stages=2)``. Image size and split count as the dataset's, the
    numerics policy as the strategy's.

    Args:
        cells: All cells that stand in one table.
    """
    keyed = [tuple((_text(values), name, values) for name, values in _axes(c)) for c in cells]
    names = [
        _distinct({text: (name, values) for text, name, values in (axes[i] for axes in keyed)})
        for i in range(3)
    ]
    return [Labels(*(names[i][text] for i, (text, _, _) in enumerate(axes))) for axes in keyed]


_Axis = tuple[str, dict[str, Any]]


def _axes(cell: Cell) -> tuple[_Axis, _Axis, _Axis]:
    dataset = cell.dataset.model_dump(mode="json")
    dataset["image_size"] = cell.dataset.image_size or cell.image_size
    dataset["split_seed"] = cell.split_seed
    strategy = cell.strategy.model_dump(mode="json") | {"numerics": cell.numerics.value}
    return (
        (cell.backbone.label, cell.backbone.model_dump(mode="json")),
        (cell.dataset.label, dataset),
        (cell.strategy.name, strategy),
    )


def _text(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)


def _distinct(axes: Mapping[str, _Axis]) -> dict[str, str]:
    """Return text of the values -> label, with the fields that differ where labels are equal."""
    by_label: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for text, (label, values) in axes.items():
        by_label[label][text] = values
    return {
        text: f"{label}{_difference(values, list(variants.values()))}"
        for label, variants in by_label.items()
        for text, values in variants.items()
    }


def _difference(values: Mapping[str, Any], variants: list[dict[str, Any]]) -> str:
    names = sorted({name for variant in variants for name in variant})
    differing = [
        name for name in names if len({json.dumps(variant.get(name)) for variant in variants}) > 1
    ]
    if not differing:
        return ""
    return " (" + ", ".join(f"{name}={_value(values.get(name))}" for name in differing) + ")"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "|".join(_value(item) for item in value)
    return "default" if value is None else str(value)
