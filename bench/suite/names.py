"""Entries of a suite -> specs whose names exist; sources and strategies are asked, never loaded."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Generic, TypeVar

from bench import registry
from bench.errors import BenchError
from bench.spec import BackboneSpec, DatasetSpec, StrategySpec
from bench.suite.document import Document, Keys
from bench.suite.fields import build_model, did_you_mean, find_closest

S = TypeVar("S", BackboneSpec, DatasetSpec)
Spec = TypeVar("Spec", bound=StrategySpec | BackboneSpec | DatasetSpec)

_MAX_LISTED = 12
_GLOB = re.compile(r"[*?\[]")
_TAGS = re.compile(r"[.@]")


@dataclass(frozen=True)
class Entry(Generic[Spec]):
    """A resolved entry of the file; a glob gives several at the same place."""

    keys: Keys
    spec: Spec
    from_glob: bool = False


@dataclass(frozen=True)
class Axis(Generic[S]):
    """One of the two axes whose names belong to sources.

    Attributes:
        word: ``backbone`` or ``dataset``.
        model: Spec of an entry.
        prefix: Name -> its source's part.
        source: Name -> its source.
    """

    word: str
    model: type[S]
    prefix: Callable[[str], str]
    source: Callable[[str], Any]

    @property
    def section(self) -> str:
        """The key of the suite file that lists them."""
        return f"{self.word}s"


BACKBONES = Axis("backbone", BackboneSpec, registry.backbone_prefix, registry.backbone_source)
DATASETS = Axis("dataset", DatasetSpec, registry.dataset_prefix, registry.dataset_source)


def is_glob(text: str) -> bool:
    """Return whether a text has wildcards."""
    return bool(_GLOB.search(text))


def resolve_axis(axis: Axis[S], document: Document) -> list[Entry[S]]:
    """Return the entries of an axis that are right; the document takes what is wrong with others.

    A glob stands for the names it matches, less those that are listed by themselves.
    """
    entries: list[Entry[S]] = []
    for keys, value in _items(document, axis.section):
        spec = build_model(axis.model, value, document, keys)
        if spec is not None:
            try:
                entries += _resolve(axis, spec, document, keys)
            except BenchError as error:
                document.add(keys, str(error))
    return _without_duplicates(entries, document, axis.word)


def resolve_strategies(document: Document) -> list[Entry[StrategySpec]]:
    """Return the strategies that are right, each of its strategy's own spec class."""
    entries: list[Entry[StrategySpec]] = []
    for keys, value in _items(document, "strategies"):
        name = value.get("name") if isinstance(value, dict) else value
        try:
            model = _strategy_model(name)
        except BenchError as error:
            document.add(keys, str(error))
            continue
        spec = build_model(model, value, document, keys)
        if spec is not None:
            entries.append(Entry(keys, spec))
    return _without_duplicates(entries, document, "strategy")


def _items(document: Document, section: str) -> Iterator[tuple[Keys, Any]]:
    values = document.value.get(section)
    if isinstance(values, list):
        yield from (((section, at), value) for at, value in enumerate(values))


def _strategy_model(name: Any) -> type[StrategySpec]:
    if isinstance(name, bool):
        name = str(name).lower()  # As a field of text reads it.
    if not isinstance(name, str):
        return StrategySpec
    known = registry.registered("strategies")
    if name not in known:
        raise BenchError(
            f"unknown strategy '{name}'.{did_you_mean(name, known)} Known: {', '.join(known)}."
        )
    return registry.strategy(name).Spec


def _resolve(axis: Axis[S], spec: S, document: Document, keys: Keys) -> list[Entry[S]]:
    if axis.prefix(spec.name) not in registry.registered(axis.section):
        raise BenchError(_unknown_source(axis, spec.name))
    source = axis.source(spec.name)
    _check_selectors(spec, source)
    names = source.names()
    if names and is_glob(spec.name) and spec.name not in names:
        return _expand(axis, spec, names, document, keys)
    if names and not _is_known(spec, names) and not _brings_weights(spec):
        # A source may know the name as one of something that it does not offer.
        raise BenchError(source.check(spec) or _unknown_name(axis, spec.name, names))
    problem = source.check(spec)
    if problem:
        raise BenchError(problem)
    return [Entry(keys, spec)]


def _check_selectors(spec: BackboneSpec | DatasetSpec, source: Any) -> None:
    """Refuse a field that the dataset's source would not look at."""
    if not isinstance(spec, DatasetSpec):
        return
    taken = getattr(source, "selectors", ())
    for key in spec.selectors:
        if key not in taken:
            known = f"It takes {', '.join(taken)}." if taken else "Remove it."
            raise BenchError(f"dataset '{spec.name}' has no use for '{key}'. {known}")


def _is_known(spec: BackboneSpec | DatasetSpec, names: Sequence[str]) -> bool:
    """Return whether a name is listed; a backbone's also without its tag: `resnet50` of `.a1_in1k`.

    A colon marks a place of weights (`timm/local-dir:…`), which the source itself checks.
    """
    name = spec.name
    if name in names or isinstance(spec, DatasetSpec):
        return name in names
    tagged = (f"{name}.", f"{name}@")
    return ":" in name or any(known.startswith(tagged) for known in names)


def _brings_weights(spec: BackboneSpec | DatasetSpec) -> bool:
    """Return whether a spec needs no pretrained weights: then only its source knows its name."""
    return isinstance(spec, BackboneSpec) and (spec.weights == "random" or bool(spec.checkpoint))


def _expand(
    axis: Axis[S], spec: S, names: Sequence[str], document: Document, keys: Keys
) -> list[Entry[S]]:
    matching = [name for name in names if fnmatchcase(name, spec.name)]
    if not matching:
        raise BenchError(
            f"no {axis.word} matches '{spec.name}'. List them with: "
            f"bench list {axis.section} '{axis.prefix(spec.name)}/*'"
        )
    entries = []
    for name in matching:
        one = spec.model_copy(update={"name": name})
        problem = axis.source(name).check(one)
        if problem:
            document.add(keys, problem)
        else:
            entries.append(Entry(keys, one, from_glob=True))
    return entries


def _unknown_source(axis: Axis[S], name: str) -> str:
    prefixes = list(registry.registered(axis.section))
    head = axis.prefix(name)
    near = find_closest(head, prefixes) if head != name else None
    if near is not None:
        hint = f" Did you mean '{near}{name[len(head) :]}'?"
    else:
        hint = _suggest(name, [known for prefix in prefixes for known in _names(axis, prefix)])
    return f"unknown {axis.word} '{name}'.{hint} Known sources: {', '.join(prefixes)}."


def _names(axis: Axis[S], prefix: str) -> Sequence[str]:
    """Return the names of a source; none of a broken plugin, which is told where it is used."""
    try:
        return tuple(axis.source(prefix).names())
    except BenchError:
        return ()


def _unknown_name(axis: Axis[S], name: str, names: Sequence[str]) -> str:
    message = f"unknown {axis.word} '{name}'.{_suggest(name, names)}"
    if len(names) <= _MAX_LISTED:
        return f"{message} Known: {', '.join(names)}."
    stem = re.match(r"[^/]*/?[A-Za-z]*", name)
    pattern = stem[0] if stem and any(known.startswith(stem[0]) for known in names) else ""
    pattern = pattern or f"{axis.prefix(name)}/"
    return f"{message} List them with: bench list {axis.section} '{pattern}*'"


def _suggest(name: str, names: Iterable[str]) -> str:
    """Suggest the closest of the listed names; source or tag may be absent in either."""
    options: dict[str, str] = {}
    for known in names:
        untagged = _TAGS.split(known)[0]
        for full in (known, untagged):
            options.setdefault(full, full)
            options.setdefault(full.partition("/")[2] or full, full)
    closest = find_closest(name, options)
    return f" Did you mean '{options[closest]}'?" if closest else ""


def _without_duplicates(
    entries: list[Entry[Spec]], document: Document, word: str
) -> list[Entry[Spec]]:
    """Return entries of distinct specs; one listed twice by itself is a problem."""
    first: dict[Spec, Entry[Spec]] = {}
    for entry in sorted(entries, key=lambda entry: entry.from_glob):
        known = first.setdefault(entry.spec, entry)
        if known is not entry and not entry.from_glob:
            document.add(
                entry.keys,
                f"{word} '{entry.spec.name}' is listed twice "
                f"(first on line {document.line(known.keys)}), which would repeat its cells",
            )
    kept = set(map(id, first.values()))
    return [entry for entry in entries if id(entry) in kept]
