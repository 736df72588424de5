"""The names that a suite may use, for people to choose from; knows no suite."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from bench import registry
from bench.errors import BenchError, UsageError
from bench.suite.fields import did_you_mean
from bench.suite.names import BACKBONES, DATASETS, is_glob


@dataclass(frozen=True)
class Listing:
    """Names with a summary, which may be empty, and what could not be listed, as sentences."""

    names: Mapping[str, str]
    notes: tuple[str, ...] = ()


def list_known(kind: str, pattern: str | None = None) -> Listing:
    """Return what can go in a suite, sorted by name.

    Args:
        kind: ``backbones``, ``datasets`` or ``strategies``.
        pattern: A glob over whole names, or a piece of one; None lists all.

    Raises:
        UsageError: Nothing matches.
    """
    whole = _list_strategies() if kind == "strategies" else _list_axis(kind)
    if pattern is None:
        return whole
    matching = {name: text for name, text in whole.names.items() if _fits(name, pattern)}
    if not matching:
        hint = did_you_mean(pattern, whole.names)
        raise UsageError(f"no {kind} match '{pattern}'.{hint} List all with: bench list {kind}")
    return Listing(matching)


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) if is_glob(pattern) else pattern in name


def _list_strategies() -> Listing:
    names: dict[str, str] = {}
    notes = []
    for name in registry.registered("strategies"):
        try:
            names[name] = registry.strategy(name).summary
        except BenchError as error:
            notes.append(str(error))
    return Listing(names, tuple(notes))


def _list_axis(kind: str) -> Listing:
    axis = BACKBONES if kind == BACKBONES.section else DATASETS
    names: list[str] = []
    notes = []
    for prefix in registry.registered(kind):
        try:
            listed = axis.source(prefix).names()
        except BenchError as error:
            notes.append(str(error))
            continue
        names += listed
        if not listed:
            notes.append(f"names of '{prefix}' cannot be listed, but can be used")
    return Listing(dict.fromkeys(sorted(names), ""), tuple(notes))
