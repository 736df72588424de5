"""The JSON Schema of suite files, for editors; knows every registered name and strategy."""

from contextlib import suppress
from typing import Any

from bench import registry
from bench.errors import BenchError
from bench.spec import BackboneSpec, DatasetSpec, StrategySpec, Suite

_DURATION = r"^(?=\d)(\d+(\.\d+)?h)?(\d+(\.\d+)?m)?(\d+(\.\d+)?s)?$"
_SEED_RANGE = r"^\d+\.\.\d+$"
_REF = "#/$defs/{model}"


def suite_schema() -> dict[str, Any]:
    """Return the JSON Schema of the YAML, strategies with the fields of their own specs.

    Names that sources list are offered for completion; a name outside the list stays valid, since
    globs and places (`folder:…`) are not in it. A plugin that does not load is left out, as no
    suite can use it.
    """
    schema = Suite.model_json_schema(ref_template=_REF)
    definitions = schema["$defs"]
    backbones = _listed_names("backbones", registry.backbone_source)
    datasets = _listed_names("datasets", registry.dataset_source)
    schema["properties"]["backbones"]["items"] = _entry(BackboneSpec, backbones, definitions)
    schema["properties"]["datasets"]["items"] = _entry(DatasetSpec, datasets, definitions)
    schema["properties"]["strategies"]["items"] = _strategies(definitions)
    definitions.pop("StrategySpec", None)
    _allow_durations(definitions["Limits"]["properties"])
    _allow_text(schema["properties"], "seeds", _SEED_RANGE)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": Suite.TITLE,
        "description": "What to sweep and under which protocol.",
    }


def _listed_names(kind: str, source: Any) -> list[str]:
    names: list[str] = []
    for prefix in registry.registered(kind):
        with suppress(BenchError):
            names += source(prefix).names()
    return sorted(names)


def _entry(
    model: type[BackboneSpec] | type[DatasetSpec], names: list[str], definitions: dict[str, Any]
) -> dict[str, Any]:
    own = model.model_json_schema(ref_template=_REF)
    definitions.update(own.pop("$defs", {}))
    name = {"anyOf": [{"enum": names}, {"type": "string"}]}
    own["properties"]["name"] = name
    definitions[model.__name__] = own
    return {"anyOf": [name, {"$ref": _REF.format(model=model.__name__)}]}


def _strategies(definitions: dict[str, Any]) -> dict[str, Any]:
    names = []
    for name in registry.registered("strategies"):
        with suppress(BenchError):
            strategy = registry.strategy(name)
            definitions[_key(name)] = _strategy(name, strategy.Spec, strategy.summary, definitions)
            names.append(name)
    references = [{"$ref": _REF.format(model=_key(name))} for name in names]
    return {"anyOf": [{"enum": names}, *references]}


def _key(name: str) -> str:
    return f"strategy_{name}"


def _strategy(
    name: str, model: type[StrategySpec], summary: str, definitions: dict[str, Any]
) -> dict[str, Any]:
    own = model.model_json_schema(ref_template=_REF)
    definitions.update(own.pop("$defs", {}))
    own["properties"]["name"] = {"const": name}
    own["required"] = sorted({*own.get("required", ()), "name"})
    return {**own, "title": name, "description": summary}


def _allow_durations(limits: dict[str, Any]) -> None:
    """Let `2h` stand where pydantic's schema, which does not see our parser, has a number."""
    for name in ("cell_timeout", "total_time", "profile_time"):
        _allow_text(limits, name, _DURATION)


def _allow_text(properties: dict[str, Any], name: str, pattern: str) -> None:
    own = properties[name]
    kept = {key: own.pop(key) for key in ("default", "title") if key in own}
    members = own.pop("anyOf", None) or [dict(own)]
    properties[name] = {**kept, "anyOf": [*members, {"type": "string", "pattern": pattern}]}
