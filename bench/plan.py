"""Suite -> cells in the order that shows most first; pure, knows no store and no machine."""

import math
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import product
from typing import cast

from bench import registry
from bench.errors import UsageError
from bench.notation import parse_seed_range
from bench.protocol import expand_dataset, expand_folds, find_conflict, suite_defaults
from bench.spec import BackboneSpec, Cell, DatasetSpec, StrategySpec, Suite

_MAX_LISTED = 30
_WILDCARDS = frozenset("*?[")


def plan_cells(suite: Suite) -> tuple[Cell, ...]:
    """Return every cell of a suite that no exclude matches and whose parts go together.

    Strategies that leave the backbone alone come first, over the whole suite, then those that
    train the fewest stages: a sweep that is stopped has a ranking already. Within such a rank,
    cells of a dataset, and of a backbone on it, are neighbours, so that artifacts are reused while
    they are hot; then the suite's own order holds. A strategy that trains from random weights gets
    the backbone with these, once for every name, whatever weights the suite has beside.

    Raises:
        UsageError: A strategy is not registered, or what is asked of a dataset contradicts itself.
    """
    strangers = frozenset(pairs_apart(suite))
    cells = []
    axes = product(expand_datasets(suite), suite.backbones, suite.strategies)
    for dataset, backbone, strategy in axes:
        if any(rule.matches(backbone, dataset, strategy) for rule in suite.exclude):
            continue
        if (backbone, dataset) in strangers:
            continue
        shared = {
            "suite": suite.name,
            "backbone": _without_weights(backbone) if strategy.from_random else backbone,
            "dataset": dataset,
            "strategy": strategy,
            "split_seed": suite.split_seed,
            "image_size": suite.image_size,
            "numerics": suite.numerics,
            "compile": suite.compile,
        }
        folds = expand_folds(dataset)
        cells += [Cell(seed=seed, fold=fold, **shared) for seed in suite.seeds for fold in folds]
    return tuple(sorted(dict.fromkeys(cells), key=lambda cell: _rank(cell.strategy)))


def expand_datasets(suite: Suite) -> tuple[DatasetSpec, ...]:
    """Return the datasets of a suite as its cells have them, see `bench.protocol`.

    Raises:
        UsageError: What is asked of a dataset contradicts itself.
    """
    defaults = suite_defaults(suite)
    for spec in suite.datasets:
        if problem := find_conflict(spec, defaults):
            raise UsageError(f"dataset '{spec.name}': {problem}.")
    return tuple(each for spec in suite.datasets for each in expand_dataset(spec, defaults))


def pairs_apart(suite: Suite) -> tuple[tuple[BackboneSpec, DatasetSpec], ...]:
    """Return the pairs of which the backbone does not take what the dataset holds."""
    held = [(spec, registry.dataset_modality(spec)) for spec in expand_datasets(suite)]
    return tuple(
        (backbone, dataset)
        for backbone in suite.backbones
        for taken in (registry.backbone_modality(backbone),)
        for dataset, modality in held
        if not registry.are_alike(taken, modality)
    )


def _without_weights(backbone: BackboneSpec) -> BackboneSpec:
    return backbone.model_copy(update={"weights": "random", "checkpoint": None})


def _rank(strategy: StrategySpec) -> tuple[bool, float]:
    """Return how much of the backbone trains: nothing, some stages, or all of it."""
    stages = getattr(strategy, "trainable_stages", math.inf)
    most = max(stages) if isinstance(stages, tuple) else stages
    return registry.strategy(strategy.name).trains_backbone, float(most)


def select_cells(
    cells: Sequence[Cell], *, only: str | None = None, seeds: Sequence[int] | None = None
) -> tuple[Cell, ...]:
    """Return the cells that a command line asks for, in their order.

    Args:
        cells: Of one suite.
        only: A glob over the label or one of its parts (backbone, dataset, strategy), or a piece
            of the label; None takes all.
        seeds: Those to keep; None takes all.

    Raises:
        UsageError: Nothing matches, or a seed is not the suite's.
    """
    _check_seeds(cells, seeds)
    kept = tuple(cell for cell in cells if seeds is None or cell.seed in seeds)
    if only is None:
        return kept
    selected = tuple(cell for cell in kept if _matches(cell, only))
    if not selected:
        raise UsageError(f"--only '{only}' matches no cell.\n{_list_parts(kept)}")
    return selected


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of a command line: ``0,1,2`` or ``0..9``.

    Raises:
        UsageError: It is something else.
    """
    try:
        if ".." in text:
            return cast(tuple[int, ...], parse_seed_range(text))
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--seeds '{text}' is not a list of whole numbers such as 0,1,2 or a range such as 0..9"
        ) from None


def _check_seeds(cells: Sequence[Cell], seeds: Sequence[int] | None) -> None:
    known = sorted({cell.seed for cell in cells})
    strangers = [seed for seed in seeds or () if seed not in known]
    if strangers:
        raise UsageError(
            f"--seeds: the suite has no seed {_join(strangers)}; it has {_join(known)}. "
            "Add it to seeds: in the suite file."
        )


def _matches(cell: Cell, pattern: str) -> bool:
    parts = (
        cell.label,
        cell.backbone.label,
        cell.backbone.name,
        cell.dataset.label,
        cell.dataset.name,
        cell.strategy.name,
    )
    globbed = _WILDCARDS & set(pattern) and any(fnmatchcase(part, pattern) for part in parts)
    return bool(globbed) or pattern in cell.label


def _list_parts(cells: Iterable[Cell]) -> str:
    axes: dict[str, dict[str, None]] = {"backbones": {}, "datasets": {}, "strategies": {}}
    for cell in cells:
        axes["backbones"][cell.backbone.label] = None
        axes["datasets"][cell.dataset.label] = None
        axes["strategies"][cell.strategy.name] = None
    return "\n".join(f"  {axis}: {_join(list(labels))}" for axis, labels in axes.items())


def _join(items: Sequence[object]) -> str:
    shown = ", ".join(str(item) for item in items[:_MAX_LISTED])
    more = len(items) - _MAX_LISTED
    return f"{shown} and {more} more" if more > 0 else shown
