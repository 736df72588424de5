"""YAML text -> plain values with the line of every path; knows nothing of suites.

Scalars follow YAML 1.2's core schema, where `3e-4` is a number and `on` is text.
"""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from bench.errors import SuiteError

Keys: TypeAlias = tuple[str | int, ...]
"""Where a value is: keys and list positions from the root."""

_MAX_NODES = 100_000
_MAX_SHOWN = 60
_TAG = "tag:yaml.org,2002:"
_CORE = {
    "null": (r"|~|null|Null|NULL", ["", "~", "n", "N"]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    "merge": (r"<<", ["<"]),
}


class _CoreLoader(yaml.SafeLoader):
    """Resolves scalars by the table above alone."""


_CoreLoader.yaml_implicit_resolvers = {}
for _name, (_pattern, _first) in _CORE.items():
    _CoreLoader.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), _first)


@dataclass
class Document:
    """A YAML mapping and what is wrong with it so far.

    Attributes:
        path: The file as the user typed it.
        value: The root mapping, of plain Python values.
        lines: Line of each path, counted from 1: of the key for a value in a mapping.
    """

    path: Path
    value: dict[str, Any] = field(default_factory=dict)
    lines: dict[Keys, int] = field(default_factory=lambda: {(): 1})
    _problems: dict[tuple[int, str], None] = field(default_factory=dict)

    def line(self, keys: Keys) -> int:
        """Return the line of a path, or of its nearest parent that the file has."""
        while keys not in self.lines:
            keys = keys[:-1]
        return self.lines[keys]

    def add(self, keys: Keys, message: str) -> None:
        """Note a problem at a path."""
        self.add_at(self.line(keys), message)

    def add_at(self, line: int, message: str) -> None:
        """Note a problem at a line; one noted twice is kept once."""
        self._problems[line, message] = None

    def has_problems(self) -> bool:
        """Return whether anything is wrong so far."""
        return bool(self._problems)

    def raise_problems(self) -> None:
        """Do nothing where nothing is wrong.

        Raises:
            SuiteError: Every problem, located, in file order.
        """
        if self._problems:
            ordered = sorted(self._problems, key=lambda problem: problem[0])
            raise SuiteError([f"{self.path}:{line}: {message}" for line, message in ordered])


def show_value(value: Any) -> str:
    """Return a value as a message shows it: as YAML has it, and short."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    text = f"'{value}'" if isinstance(value, str) else repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 2]}…'"


def read_document(path: Path) -> Document:
    """Return the document of a file; duplicate keys and the like are noted in it.

    Raises:
        SuiteError: The file cannot be read, or is not YAML with a mapping at its root.
    """
    document = Document(path)
    loader = _CoreLoader(_read_text(path))
    try:
        node = loader.get_single_node()
        value = None if node is None else _Reader(document).value(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        document.add_at(mark.line + 1 if mark else 1, f"not valid YAML: {error.problem}")
        document.raise_problems()
    except RecursionError:
        raise SuiteError([f"{path}:1: not a suite: nested too deeply"]) from None
    finally:
        loader.dispose()
    if not isinstance(value, dict):
        needed = "a suite is a mapping with name, backbones, datasets and strategies"
        document.add((), f"{needed}; got {show_value(value)}")
        document.raise_problems()
    else:
        document.value = value
    return document


def _read_text(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise SuiteError(
            [f"{path}: no such file; suites are YAML files, e.g. in suites/"]
        ) from None
    except OSError as error:
        raise SuiteError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise SuiteError([f"{path}:{line}: not UTF-8 text; save the file as UTF-8"]) from error
    unprintable = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if unprintable:
        line = text.count("\n", 0, unprintable.start()) + 1
        raise SuiteError([f"{path}:{line}: not text: it holds the character {unprintable[0]!r}"])
    return text


class _Reader:
    """Nodes -> plain values, noting lines and problems in the document."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._num_nodes = 0

    def value(self, node: yaml.Node, keys: Keys, *, line: int | None = None) -> Any:
        """Return the value of a node; its line and those of all below are noted."""
        self._num_nodes += 1
        if self._num_nodes > _MAX_NODES:
            self._refuse(node, f"aliases unfold to more than {_MAX_NODES} values")
        self._document.lines[keys] = line or node.start_mark.line + 1
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self._mapping(node, keys)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.value(item, (*keys, at)) for at, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and kind in ("str", "null", "bool", "int", "float"):
            return self._scalar(kind, node)
        return self._refuse(node, f"the tag {node.tag.replace(_TAG, '!!')} has no meaning here")

    def _refuse(self, node: yaml.Node, problem: str) -> Any:
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)

    def _scalar(self, kind: str, node: yaml.ScalarNode) -> Any:
        if kind == "str":
            return node.value
        if kind in ("null", "bool"):
            return None if kind == "null" else node.value.lower() == "true"
        text = re.sub(r"^([-+]?)\.(inf|nan)$", r"\1\2", node.value, flags=re.IGNORECASE)
        try:
            number = int(text) if kind == "int" else float(text)
            finite = math.isfinite(number)
        except (ValueError, OverflowError):
            return self._refuse(node, f"{show_value(node.value)} is not a number")
        return number if finite else self._refuse(node, f"{node.value} is not a finite number")

    def _mapping(self, node: yaml.MappingNode, keys: Keys) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for source in reversed([pair[1] for pair in node.value if _is_merge(pair[0])]):
            value.update(self._merged(source, keys))
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if _is_merge(key_node):
                continue
            key, line = self._key(key_node), key_node.start_mark.line + 1
            if key in lines:
                self._document.add_at(
                    line, f"duplicate key '{key}' (first on line {lines[key]}): keep one of them"
                )
                continue
            lines[key] = line
            value[key] = self.value(value_node, (*keys, key), line=line)
        return value

    def _merged(self, node: yaml.Node, keys: Keys) -> dict[str, Any]:
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: dict[str, Any] = {}
        for source in reversed(sources):
            if not isinstance(source, yaml.MappingNode):
                self._refuse(source, "only a mapping can be merged with <<")
            merged.update(self._mapping(source, keys))
        return merged

    def _key(self, node: yaml.Node) -> str:
        if isinstance(node, yaml.ScalarNode):
            return str(node.value)
        return str(self._refuse(node, "a key must be text, not a list or a mapping"))


def _is_merge(node: yaml.Node) -> bool:
    return bool(node.tag == f"{_TAG}merge")
