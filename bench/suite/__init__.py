"""A suite file -> `Suite`, or every problem in it at once; knows no weights, no data and no cells.

Sources and strategies are asked for names and specs, so this works without torch in a fraction of
a second.
"""

from pathlib import Path
from typing import Any

from bench.protocol import Defaults, suite_defaults
from bench.spec import BackboneSpec, DatasetSpec, Exclude, Limits, StrategySpec, Suite
from bench.suite.combinations import Combinations, check_combinations
from bench.suite.document import Document, Keys, read_document
from bench.suite.fields import build_model, did_you_mean
from bench.suite.names import BACKBONES, DATASETS, resolve_axis, resolve_strategies
from bench.suite.schema import suite_schema

__all__ = ["did_you_mean", "load_suite", "suite_schema"]

_STAND_INS: dict[str, tuple[Any, ...]] = {
    "backbones": (BackboneSpec(name="?"),),
    "datasets": (DatasetSpec(name="?"),),
    "strategies": (StrategySpec(name="?"),),
}
"""Stand for a section whose entries are all wrong, so that the rest is still checked."""


def load_suite(path: Path) -> Suite:
    """Return the suite of a YAML file, its globs expanded and every name known to exist.

    Args:
        path: As the user typed it; messages repeat it.

    Raises:
        SuiteError: Every problem of the file, each as ``path:line: message``, in file order.
    """
    document = read_document(path)
    backbones = resolve_axis(BACKBONES, document)
    datasets = resolve_axis(DATASETS, document)
    strategies = resolve_strategies(document)
    complete = not document.has_problems()
    exclude, limits = _read_exclude(document), _read_limits(document)
    sections = {
        "backbones": tuple(entry.spec for entry in backbones),
        "datasets": tuple(entry.spec for entry in datasets),
        "strategies": tuple(entry.spec for entry in strategies),
        "exclude": tuple(rule for _, rule in exclude),
        "limits": limits,
    }
    suite = build_model(Suite, _with_sections(document.value, sections), document, ())
    axes = Combinations(
        backbones=backbones,
        datasets=datasets,
        strategies=strategies,
        exclude=exclude,
        defaults=suite_defaults(suite) if suite else Defaults(),
        image_size=suite.image_size if suite else None,
    )
    check_combinations(axes, document, complete=complete and not document.has_problems())
    if suite is not None:
        _check_seeds(suite, document)
    document.raise_problems()
    assert suite is not None
    return suite


def _with_sections(value: dict[str, Any], sections: dict[str, Any]) -> dict[str, Any]:
    """Return the file's mapping with resolved sections; one of the wrong type stays, to be told."""
    merged = dict(value)
    for name, resolved in sections.items():
        shape = dict if name == "limits" else list
        if isinstance(value.get(name), shape) and value[name]:
            merged[name] = resolved or _STAND_INS.get(name, ())
    return merged


def _read_exclude(document: Document) -> list[tuple[Keys, Exclude]]:
    values = document.value.get("exclude")
    if not isinstance(values, list):
        return []
    rules: list[tuple[Keys, Exclude]] = []
    for at, value in enumerate(values):
        rule = build_model(Exclude, value, document, ("exclude", at))
        if rule is not None:
            rules.append((("exclude", at), rule))
    return rules


def _read_limits(document: Document) -> Limits:
    value = document.value.get("limits")
    if not isinstance(value, dict):
        return Limits()
    return build_model(Limits, value, document, ("limits",)) or Limits()


def _check_seeds(suite: Suite, document: Document) -> None:
    for at, seed in enumerate(suite.seeds):
        if seed in suite.seeds[:at]:
            document.add(
                ("seeds", at), f"seed {seed} is listed twice, which would repeat its cells"
            )
