"""Entry points of other distributions, each with where it comes from; it imports none of them."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import (
    Distribution,
    EntryPoint,
    PackageNotFoundError,
    distribution,
    distributions,
)
from types import MappingProxyType
from typing import Any

from bench.errors import BenchError

KINDS = ("backbones", "datasets", "strategies")
_GROUP = "bench."


@dataclass(frozen=True)
class Plugin:
    """A source or a strategy that another distribution brings.

    Attributes:
        kind: One of `KINDS`.
        name: As in a suite: a strategy, or the prefix of a source.
        target: ``module:attribute``.
        distribution: Name of the distribution; empty where it is not known.
        version: Of the distribution.
    """

    kind: str
    name: str
    target: str
    distribution: str = ""
    version: str = ""

    @property
    def origin(self) -> str:
        """The distribution with its version."""
        return f"{self.distribution} {self.version}".rstrip()

    def __str__(self) -> str:
        origin = f", distribution {self.origin}" if self.origin else ""
        return f"plugin '{self.name}' ({self.target}, entry point {_GROUP}{self.kind}{origin})"

    def make(self) -> Any:
        """Return an instance of what it brings.

        Raises:
            BenchError: Its module does not import, lacks the attribute, or the call fails.
        """
        try:
            return EntryPoint(self.name, self.target, _GROUP + self.kind).load()()
        # A module may end the process that imports it, as a script does.
        except (Exception, SystemExit) as error:
            raise BenchError(
                f"{self} does not load: {type(error).__name__}: {error}. Fix or uninstall it."
            ) from error


def find_plugins() -> Mapping[tuple[str, str], tuple[Plugin, ...]]:
    """Return the plugins by kind and name that Python finds now, looked for once per its path.

    Several of one name cannot be told apart, and none of them can be used.

    Raises:
        BenchError: The entry points of a distribution are damaged.
    """
    return _find(tuple(sys.path))


def forget_found() -> None:
    """Look again from now on."""
    _find.cache_clear()


@cache
def _find(path: tuple[str, ...]) -> Mapping[tuple[str, str], tuple[Plugin, ...]]:
    plugins: dict[tuple[str, str], tuple[Plugin, ...]] = {}
    try:
        for plugin in [each for own in _distributions() for each in _plugins_of(own)]:
            key = plugin.kind, plugin.name
            plugins[key] = (*plugins.get(key, ()), plugin)
    # A damaged file makes the parser raise this or that.
    except Exception as error:
        raise BenchError(describe_damage() or str(error)) from error
    return MappingProxyType(plugins)


def describe_damage() -> str | None:
    """Return which distributions have entry points that cannot be read, or None.

    Python then reads those of no other one either, which pydantic and torch do when imported.
    """
    sentences = []
    for installed in distributions():
        try:
            tuple(installed.entry_points)
        except Exception as error:
            sentences.append(
                f"the entry points of distribution {_name_of(installed)} cannot be read "
                f"({type(error).__name__}: {error}), which keeps Python from reading any. "
                "Reinstall or uninstall it."
            )
    return " ".join(sentences) or None


def _distributions() -> Iterator[Distribution]:
    """Yield what has entry points of ours, each name once: the first on the path is in force."""
    seen: set[str] = set()
    for installed in distributions():
        if not _names_a_group(installed):
            continue
        name = _name_of(installed)
        if name in seen or not _is_in_force(name, installed):
            continue
        seen.add(name)
        yield installed


def _names_a_group(installed: Distribution) -> bool:
    """Return whether its entry points may be ours, by their text: most distributions' are not."""
    text = installed.read_text("entry_points.txt")
    return text is not None and f"[{_GROUP}" in text


def _is_in_force(name: str, installed: Distribution) -> bool:
    try:
        first = distribution(name)
    except (PackageNotFoundError, ValueError):
        return True
    return first.locate_file("") == installed.locate_file("")


def _plugins_of(installed: Distribution) -> list[Plugin]:
    name, version = _name_of(installed), _field(installed, "Version")
    return [
        Plugin(kind, point.name, point.value, name, version)
        for kind in KINDS
        for point in installed.entry_points.select(group=_GROUP + kind)
    ]


def _name_of(installed: Distribution) -> str:
    return _field(installed, "Name") or f"(nameless, in {installed.locate_file('')})"


def _field(installed: Distribution, name: str) -> str:
    """Return a field of the metadata, empty where an installation is damaged or lacks it."""
    try:
        return installed.metadata[name] or ""
    except Exception:
        return ""
