"""Specs that are right alone but not together; knows names and specs, not what they stand for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from bench import registry
from bench.interfaces import Modality
from bench.protocol import Defaults, expand_dataset, find_conflict
from bench.spec import BackboneSpec, DatasetSpec, Exclude, StrategySpec
from bench.suite.document import Document, Keys
from bench.suite.names import Entry

MIN_SHOTS_FOR_VAL = 5
"""Below this many examples per class, a val split is too small to choose a setting on."""

_NOTHING_TO_TRAIN = "plain"

E = TypeVar("E", Entry[BackboneSpec], Entry[DatasetSpec])

Kept: TypeAlias = tuple[Entry[BackboneSpec], DatasetSpec, Entry[StrategySpec]]
"""A combination that no exclude matches."""


@dataclass(frozen=True)
class Combinations:
    """The axes of a suite, resolved as far as the file is right.

    Attributes:
        exclude: Those that are valid, with their place in the file.
        defaults: What the suite sets for its datasets.
        image_size: The suite's default.
    """

    backbones: list[Entry[BackboneSpec]]
    datasets: list[Entry[DatasetSpec]]
    strategies: list[Entry[StrategySpec]]
    exclude: list[tuple[Keys, Exclude]]
    defaults: Defaults
    image_size: int | None

    def variants(self) -> Iterator[tuple[Entry[DatasetSpec], DatasetSpec]]:
        """Yield every dataset as its cells have it, with its size in pixels filled in."""
        for entry in self.datasets:
            for spec in expand_dataset(entry.spec, self.defaults):
                size = spec.image_size or self.image_size
                yield entry, spec.model_copy(update={"image_size": size})

    def kept(self) -> Iterator[Kept]:
        """Yield every combination that no exclude matches and whose parts go together."""
        rules = [rule for _, rule in self.exclude]
        held = [(spec, registry.dataset_modality(spec)) for _, spec in self.variants()]
        for backbone in self.backbones:
            taken = registry.backbone_modality(backbone.spec)
            for dataset, modality in held:
                if not registry.are_alike(taken, modality):
                    continue
                for strategy in self.strategies:
                    axes = (backbone.spec, dataset, strategy.spec)
                    if not any(rule.matches(*axes) for rule in rules):
                        yield backbone, dataset, strategy


def check_combinations(axes: Combinations, document: Document, *, complete: bool) -> None:
    """Note every impossible combination in the document.

    Args:
        axes: What is swept.
        document: Takes the problems.
        complete: Whether every entry of the file was resolved; only then can it be said that an
            exclude matches nothing, or everything.
    """
    _check_train_examples(axes, document)
    _check_protocols(axes, document)
    _check_repeats(axes, document)
    _check_partners(axes, document)
    kept = list(axes.kept())
    _check_nothing_to_train(kept, document)
    _check_few_shots(kept, document)
    _check_only_for_images(kept, document)
    if complete:
        _check_excludes(axes, document)
        if not kept:
            document.add(("exclude",), "every cell is excluded; narrow or remove an exclude")


def _check_train_examples(axes: Combinations, document: Document) -> None:
    for entry in axes.datasets:
        own = entry.spec.shots is not None
        if entry.spec.train_examples is not None and (own or axes.defaults.shots is not None):
            document.add(
                (*entry.keys, "train_examples"),
                f"dataset '{entry.spec.name}' has train_examples together with "
                f"{'shots' if own else 'the shots of the suite'}: both set the size of train; "
                "keep one",
            )


def _check_protocols(axes: Combinations, document: Document) -> None:
    for entry in axes.datasets:
        if problem := find_conflict(entry.spec, axes.defaults):
            document.add(entry.keys, f"dataset '{entry.spec.name}': {problem}")
        path = entry.spec.splits
        if path is not None and not Path(path).expanduser().is_file():
            document.add(
                (*entry.keys, "splits"),
                f"dataset '{entry.spec.name}': no file '{path}' with its splits; write one with: "
                "bench splits export SUITE",
            )


def _check_repeats(axes: Combinations, document: Document) -> None:
    first: dict[DatasetSpec, Keys] = {}
    for entry, spec in axes.variants():
        if spec in first:
            document.add(
                entry.keys,
                f"dataset '{spec.label}' repeats the one on line {document.line(first[spec])}, "
                "which would repeat its cells",
            )
        first.setdefault(spec, entry.keys)


def _check_partners(axes: Combinations, document: Document) -> None:
    """Note every backbone that takes nothing of what the datasets hold, and the other way round."""
    taken = [(each, registry.backbone_modality(each.spec)) for each in axes.backbones]
    held = [(each, registry.dataset_modality(each.spec)) for each in axes.datasets]
    for entry, modality in _without_partner(taken, held):
        document.add(
            entry.keys,
            f"backbone '{entry.spec.name}' takes examples of modality '{modality}', and every "
            f"dataset of the suite holds others ({_named(held)}); add one it takes, or remove it",
        )
    for other, modality in _without_partner(held, taken):
        document.add(
            other.keys,
            f"dataset '{other.spec.name}' holds examples of modality '{modality}', and every "
            f"backbone of the suite takes others ({_named(taken)}); add one, or remove it",
        )


def _without_partner(
    own: Sequence[tuple[E, Modality | None]], others: Sequence[tuple[Any, Modality | None]]
) -> list[tuple[E, Modality | None]]:
    """Return the entries of one axis that go with none of the other; none where that is empty."""
    modalities = {modality for _, modality in others}
    return [
        pair
        for pair in own
        if modalities and not any(registry.are_alike(pair[1], other) for other in modalities)
    ]


def _named(axis: Sequence[tuple[Any, Modality | None]]) -> str:
    return ", ".join(sorted({str(modality) for _, modality in axis}))


def _check_only_for_images(kept: list[Kept], document: Document) -> None:
    wrong: dict[Keys, tuple[StrategySpec, dict[str, None]]] = {}
    for _, dataset, entry in kept:
        if entry.spec.only_for_images() and registry.dataset_modality(dataset) != "image":
            wrong.setdefault(entry.keys, (entry.spec, {}))[1][dataset.name] = None
    for keys, (spec, names) in wrong.items():
        document.add(
            keys,
            f"strategy '{spec.name}' has {' and '.join(spec.only_for_images())}, which is for "
            f"images alone, and {', '.join(names)} holds none; drop it, or leave the dataset out "
            "with exclude",
        )


def _check_nothing_to_train(kept: list[Kept], document: Document) -> None:
    impossible: dict[Keys, tuple[str, dict[str, None]]] = {}
    for backbone, _, strategy in kept:
        name = backbone.spec.name
        plain = registry.backbone_prefix(name) == _NOTHING_TO_TRAIN
        if plain and registry.strategy(strategy.spec.name).trains_backbone:
            impossible.setdefault(backbone.keys, (name, {}))[1][strategy.spec.name] = None
    for keys, (name, strategies) in impossible.items():
        rules = ", ".join(f'{{backbone: "{name}", strategy: {word}}}' for word in strategies)
        document.add(
            keys,
            f"'{name}' has nothing to train, so {' and '.join(strategies)} cannot adapt it; "
            f"add exclude: [{rules}]",
        )


def _check_few_shots(kept: list[Kept], document: Document) -> None:
    few: dict[Keys, tuple[StrategySpec, dict[str, None]]] = {}
    for _, dataset, entry in kept:
        shots, spec = dataset.shots, entry.spec
        if isinstance(shots, int) and shots < MIN_SHOTS_FOR_VAL and _chooses_setting(spec):
            few.setdefault(entry.keys, (spec, {}))[1][dataset.label] = None
    for keys, (spec, labels) in few.items():
        document.add(
            keys,
            f"strategy '{spec.name}' chooses among {len(spec.grid_points())} settings on val: "
            f"below {MIN_SHOTS_FOR_VAL} shots a fixed setting is required, and the suite has "
            f"{', '.join(labels)}; give one value of {_grids(spec)}, or more shots",
        )


def _chooses_setting(spec: StrategySpec) -> bool:
    return len(spec.grid_points()) > 1 and registry.strategy(spec.name).needs_val(spec)


def _grids(spec: StrategySpec) -> str:
    return " and ".join(key for key, value in spec.model_dump().items() if isinstance(value, tuple))


def _check_excludes(axes: Combinations, document: Document) -> None:
    variants = [spec for _, spec in axes.variants()]
    for keys, rule in axes.exclude:
        if not any(
            rule.matches(backbone.spec, dataset, strategy.spec)
            for backbone in axes.backbones
            for dataset in variants
            for strategy in axes.strategies
        ):
            document.add(keys, "this exclude matches no cell; correct its globs or remove it")
