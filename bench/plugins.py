"""An object of a plugin, held to its protocol: what it does wrong before a cell runs names it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.entry_points import Plugin
from bench.errors import BenchError
from bench.interfaces import Located, Missing
from bench.spec import StrategySpec

_SOURCE = ("names", "check", "locate", "load")
_METHODS = {"backbones": _SOURCE, "datasets": _SOURCE, "strategies": ("needs_val", "adapt")}
_WORDS = {"backbones": "backbone source", "datasets": "dataset source", "strategies": "strategy"}


@dataclass(frozen=True)
class _Due:
    """What a method has to return, in words and as a test."""

    words: str
    fits: Callable[[Any], bool]


def _are_names(value: Any) -> bool:
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    return listed and all(isinstance(name, str) for name in value)


def _is_located(value: Any) -> bool:
    kinds = {"files": Path, "missing": Missing, "packages": str}
    return isinstance(value, Located) and all(
        isinstance(held, tuple) and all(isinstance(item, kind) for item in held)
        for held, kind in ((getattr(value, name), kind) for name, kind in kinds.items())
    )


_MODALITIES = ("image", "text", "audio", None)
_DUE: Mapping[str, _Due] = {
    "names": _Due("a sequence of names", _are_names),
    "check": _Due("a sentence or None", lambda value: value is None or isinstance(value, str)),
    "locate": _Due("a Located with tuples of paths, of Missing and of names", _is_located),
    "needs_val": _Due("True or False", lambda value: isinstance(value, bool)),
    "modality": _Due("image, text, audio or None", lambda value: value in _MODALITIES),
}
"""By method that is called outside of a cell, where an error would end what others do."""


def guard(plugin: Plugin) -> Any:
    """Return an instance of what a plugin brings; all that it is asked before a cell is checked.

    Errors inside a cell are that cell's own, with their traceback, so `load` and `adapt` are not
    touched.

    Raises:
        BenchError: It does not load, or lacks a part of its protocol.
    """
    made = plugin.make()
    lacks = _lacks(plugin, made)
    if lacks:
        raise BenchError(
            f"{plugin} is no {_WORDS[plugin.kind]}: {'; '.join(lacks)}. "
            "Fix or uninstall it; see docs/plugins.md."
        )
    return _Guarded(plugin, made)


def _lacks(plugin: Plugin, made: Any) -> list[str]:
    """Return what an object lacks of its protocol, a phrase each."""
    lacks = [
        f"it has no method {name}"
        for name in _METHODS[plugin.kind]
        if not callable(getattr(made, name, None))
    ]
    if plugin.kind != "strategies":
        prefix = getattr(made, "prefix", None)
        named = [f"its prefix is {prefix!r}, not '{plugin.name}'"] if prefix != plugin.name else []
        return lacks + named
    model = getattr(made, "Spec", None)
    if not (isinstance(model, type) and issubclass(model, StrategySpec)):
        lacks.append("its Spec is no subclass of StrategySpec")
    types = {"version": int, "summary": str, "trains_backbone": bool}
    return lacks + [
        f"it has no {name} of type {kind.__name__}"
        for name, kind in types.items()
        if not isinstance(getattr(made, name, None), kind)
    ]


class _Guarded:
    """A plugin's object; answers that are due before a cell runs are checked.

    Args:
        plugin: Named in every message.
        made: Any other attribute is its own.
    """

    def __init__(self, plugin: Plugin, made: Any) -> None:
        self._plugin = plugin
        self._made = made

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._made, name)
        return partial(self._ask, name, value) if name in _DUE else value

    def _ask(self, name: str, method: Callable[..., Any], *arguments: Any) -> Any:
        try:
            answer = method(*arguments)
        except BenchError:
            raise
        except Exception as error:
            raise BenchError(
                f"{self._plugin} fails in {name}(): {type(error).__name__}: {error}. "
                "Fix or uninstall it."
            ) from error
        if not _DUE[name].fits(answer):
            raise BenchError(
                f"{self._plugin} fails in {name}(): it gave {answer!r:.80}, expected "
                f"{_DUE[name].words}. Fix or uninstall it."
            )
        return answer
