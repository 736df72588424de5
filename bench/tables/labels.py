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
    numerics policy, compiling included, as the strategy's.

    Args:
        cells: All cells that stand in one table.
    """
    known = list(cells)
    dumped: dict[int, str] = {}
    texts = [_texts(cell, dumped) for cell in known]
    # Ten thousand cells have a few dozen distinct axes: each is taken apart once.
    examples = [{text[i]: cell for text, cell in zip(texts, known, strict=True)} for i in range(3)]
    names = [
        _distinct({text: _axes(cell)[i] for text, cell in axis.items()})
        for i, axis in enumerate(examples)
    ]
    return [Labels(*(names[i][text[i]] for i in range(3))) for text in texts]


_Axis = tuple[str, dict[str, Any]]


def _texts(cell: Cell, dumped: dict[int, str]) -> tuple[str, str, str]:
    """Return a text per axis that is equal where `_axes` is.

    Args:
        cell: Its suite and seed play no part.
        dumped: Text by the id of a spec: cells of one store or suite share theirs.
    """
    specs = cell.backbone, cell.dataset, cell.strategy
    for spec in specs:
        if id(spec) not in dumped:
            dumped[id(spec)] = spec.model_dump_json()
    backbone, dataset, strategy = (dumped[id(spec)] for spec in specs)
    return (
        backbone,
        f"{dataset} {cell.image_size} {cell.split_seed}",
        f"{strategy} {cell.numerics.value} {cell.compile}",
    )


def _axes(cell: Cell) -> tuple[_Axis, _Axis, _Axis]:
    dataset = cell.dataset.model_dump(mode="json")
    dataset["image_size"] = cell.image_size
    dataset["split_seed"] = cell.split_seed
    strategy = cell.strategy.model_dump(mode="json")
    strategy |= {"numerics": cell.numerics.value, "compile": cell.compile}
    return (
        (cell.backbone.label, cell.backbone.model_dump(mode="json")),
        (cell.dataset.label, dataset),
        (cell.strategy.name, strategy),
    )


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
