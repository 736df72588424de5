"""A judged night -> JSON with full numbers and JUnit XML; knows no terminal."""

import json
import math
from dataclasses import asdict
from typing import Any
from xml.etree import ElementTree

from bench.gate.night import Night
from bench.gate.records import Side
from bench.gate.values import Verdict
from bench.tables import scale
from bench.tables.detectable import detectable_changes
from bench.tables.verdicts import RED, VerdictLine, replaced_contents, verdict_lines

FORMAT_VERSION = 1
_SKIPPED = (Verdict.INCONCLUSIVE, Verdict.NOT_COMPARABLE)


def verdicts_json(night: Night) -> str:
    """Return every row in base units, unrounded; a number that is not finite is null."""
    value = {
        "format_version": FORMAT_VERSION,
        "exit_code": night.verdicts.exit_code,
        "counts": {verdict.value: count for verdict, count in night.verdicts.counts.items()},
        "baseline": _side(night.baseline),
        "candidate": _side(night.candidate),
        "settings": {
            "alpha": night.settings.alpha,
            "power": night.settings.power,
            "min_effects": dict(night.settings.min_effects),
            "noise_floors": dict(night.settings.noise_floors),
        },
        "changes": [asdict(change) for change in night.changes],
        "replaced": [asdict(each) for each in replaced_contents(night)],
        "detectable": [asdict(each) for each in detectable_changes(night)],
        "rows": [
            {**asdict(row), "origin": night.candidate.origin(row.cell, row.metric) or None}
            for row in night.verdicts.rows
        ],
    }
    return json.dumps(_finite(value), indent=1, allow_nan=False) + "\n"


def _side(side: Side) -> dict[str, Any]:
    return {"title": side.title, "suite": side.suite, "measured": side.when}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def verdicts_junit(night: Night) -> str:
    """Return JUnit XML: one test case per row, failures for what is red, skipped where untold."""
    lines = verdict_lines(night)
    counts = {
        "tests": len(lines),
        "failures": sum(line.verdict in RED for line in lines),
        "errors": 0,
        "skipped": sum(line.verdict in _SKIPPED for line in lines),
    }
    totals = {name: str(count) for name, count in counts.items()}
    root = ElementTree.Element("testsuites", {"name": "bench", **totals})
    suite = night.baseline.suite or "bench"
    node = ElementTree.SubElement(root, "testsuite", {"name": suite, "time": "0", **totals})
    for line in lines:
        _case(node, line)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, "unicode") + "\n"


def _case(node: ElementTree.Element, line: VerdictLine) -> None:
    names = {"classname": scale.printable(line.cell), "name": line.metric, "time": "0"}
    case = ElementTree.SubElement(node, "testcase", names)
    told = [line.values, line.effect, line.reason, line.changes, line.origin]
    text = scale.printable("; ".join(part for part in told if part))
    if line.verdict in RED:
        attributes = {"type": line.verdict.value, "message": text}
        ElementTree.SubElement(case, "failure", attributes).text = text
    elif line.verdict in _SKIPPED:
        message = f"{line.verdict.value}: {text}"
        ElementTree.SubElement(case, "skipped", {"message": message})
