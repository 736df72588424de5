"""Plain values -> spec models, each problem in one clear message; knows no names that exist."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from bench.suite.document import Document, Keys, show_value

M = TypeVar("M", bound=BaseModel)


def find_closest(word: str, options: Iterable[str]) -> str | None:
    """Return the option most like a word, or None where none is close."""
    close = get_close_matches(word, list(options), n=1, cutoff=0.6)
    return close[0] if close else None


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the closest option, or nothing where none is close."""
    closest = find_closest(word, options)
    return f" Did you mean '{closest}'?" if closest else ""


def build_model(model: type[M], value: Any, document: Document, keys: Keys) -> M | None:
    """Return the model of a value, or None after noting every problem in the document.

    Args:
        model: A frozen spec.
        value: What the file has there.
        document: Takes the problems.
        keys: Where in the file the value is.
    """
    try:
        return model.model_validate(_as_input(value))
    except ValidationError as error:
        for found in _one_per_path(error, value):
            document.add((*keys, *found.keys), _message(model, found, keys))
        return None


@dataclass(frozen=True)
class _Found:
    """One validation error: where, below the value; under which member of a union; what."""

    keys: Keys
    union: Keys | None
    member: str
    value: Any
    kind: str
    text: str
    context: dict[str, Any]


def _as_input(value: Any) -> Any:
    """Return a copy with booleans as text, since pydantic would take `true` for the number 1."""
    if isinstance(value, dict):
        return {key: _as_input(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_input(item) for item in value]
    return str(value).lower() if isinstance(value, bool) else value


def _one_per_path(error: ValidationError, value: Any) -> list[_Found]:
    """Return one error per place; of a union, those of the member that the value was meant for."""
    found = [_locate(item, value) for item in error.errors(include_url=False)]
    members: dict[Keys, str] = {}
    for item in sorted(found, key=lambda item: not _is_meant(item, value)):
        if item.union is not None:
            members.setdefault(item.union, item.member)
    first: dict[Keys, _Found] = {}
    for item in found:
        if item.union is None or members[item.union] == item.member:
            first.setdefault(item.keys, item)
    return list(first.values())


def _is_meant(item: _Found, value: Any) -> bool:
    for key in item.union or ():
        value = value[key]
    return isinstance(value, list) == item.member.startswith(("tuple", "list"))


def _locate(error: Any, value: Any) -> _Found:
    keys: Keys = ()
    union: Keys | None = None
    member = ""
    for part in error["loc"]:
        if isinstance(value, (dict, list)) and _has(value, part):
            keys, value = (*keys, part), value[part]
        elif error["type"] != "missing" and union is None:
            union, member = keys, str(part)
    if error["type"] == "missing":
        value = error["loc"][-1]
    return _Found(keys, union, member, value, error["type"], error["msg"], error.get("ctx") or {})


def _has(value: dict[str, Any] | list[Any], part: Any) -> bool:
    if isinstance(value, dict):
        return part in value
    return isinstance(part, int) and part < len(value)


def _message(model: type[BaseModel], found: _Found, parent: Keys) -> str:
    name = _dotted(found.keys or parent)
    got = show_value(found.value)
    match found.kind:
        case "extra_forbidden":
            known = [field.alias or name for name, field in model.model_fields.items()]
            key = str(found.keys[-1])
            return f"unknown key '{key}'.{did_you_mean(key, known)} Known: {', '.join(known)}."
        case "missing":
            return f"the key '{found.value}' is missing"
        case "literal_error" | "enum":
            return _choice_message(name, found)
        case "too_short":
            return f"{name} needs at least {found.context['min_length']} value, got {got}"
        case "string_pattern_mismatch":
            return f"{name} must match {found.context['pattern']}, got {got}"
        case "model_type":
            by_name = not found.keys and "name" in model.model_fields
            return f"{name} must be a {'name or a ' if by_name else ''}mapping, got {got}"
        case "byte_size" | "byte_size_unit":
            return f"{name} must be a size such as 16GiB, got {got}"
        case "value_error":
            return f"{name}: {found.context['error']}"
    rule = found.text.partition(", unable to parse")[0]
    for pydantic, ours in _WORDS:
        rule = rule.replace(pydantic, ours)
    return f"{name} {rule}, got {got}"


_WORDS: Sequence[tuple[str, str]] = (
    ("Input should be", "must be"),
    ("String should", "must"),
    ("a valid tuple", "a list"),
    ("a valid string", "text"),
    ("a valid number", "a number"),
    ("a valid boolean, unable to interpret input", "true or false"),
    ("a valid integer", "a whole number"),
)


def _choice_message(name: str, found: _Found) -> str:
    options = found.context["expected"].replace(" or ", ", ").replace("'", "")
    hint = did_you_mean(str(found.value), options.split(", "))
    return f"{name} must be one of {options}, got {show_value(found.value)}.{hint}"


def _dotted(keys: Keys) -> str:
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    return text.removeprefix(".") or "the suite"
