"""``python -m benchmarks.report``: saved results -> the table in docs/performance.md."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results import FOLDER, Row, Target

DOCUMENT = Path(__file__).parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- table:performance -->", "<!-- /table:performance -->"
CLAIMS = ("1", "2", "3", "4", "5", "6", "7", "8", "9")

_HEAD = ("claim", "what", "setting", "measured", "CPU", "target", "bench", "plain", "note")
_DIGITS = 3


@dataclass(frozen=True)
class Result:
    """One saved file.

    Attributes:
        machine: As `results.describe_machine` gave it.
    """

    measured_at: str
    machine: dict[str, Any]
    rows: tuple[Row, ...]


def load_results(folder: Path) -> list[Result]:
    """Return every saved result of full size, by name; quick ones lie in a folder of their own."""
    return [_read(path) for path in sorted(folder.glob("*.json"))]


def _read(path: Path) -> Result:
    value = json.loads(path.read_text())
    rows = [Row(**{**row, "target": Target(**row["target"])}) for row in value["rows"]]
    return Result(value["measured_at"], value["machine"], tuple(rows))


def render(results: Sequence[Result]) -> str:
    """Return the table with a line of where and when; claims without a number say so."""
    rows = sorted((row for result in results for row in result.rows), key=lambda row: row.claim)
    lines = [_describe(results), "", _line(_HEAD), _line(["---"] * len(_HEAD))]
    lines += [_line(_cells(row)) for row in rows]
    measured = {row.claim for row in rows if row.ratio is not None}
    absent = [claim for claim in CLAIMS if claim not in measured]
    if absent:
        lines += ["", f"Not measured in this run: {', '.join(absent)}."]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cells(row: Row) -> tuple[str, ...]:
    mark = {True: "", False: " **missed**", None: ""}[row.met]
    bound = "" if row.target.bound is None else f"{row.target.kind} {row.target.bound:g}"
    cells = (
        row.claim,
        row.what,
        row.setting,
        _number(row.ratio, f" {row.unit}") + mark,
        _number(row.cpu_ratio, " x"),
        bound,
        _number(row.bench_seconds, " s"),
        _number(row.plain_seconds, " s"),
        row.note,
    )
    return tuple(cell.replace("|", "\\|") for cell in cells)


def _number(value: float | None, unit: str) -> str:
    """Return three significant digits, without an exponent where one reads better without."""
    if value is None:
        return "–"
    plain = value == 0 or 1e-3 <= abs(value) < 1e6
    rounded = float(f"{value:.{_DIGITS}g}")
    text = f"{rounded:,.10g}" if plain else f"{value:.1e}"
    return f"{text}{unit}"


def _describe(results: Sequence[Result]) -> str:
    """Return one sentence per machine; several are told apart, since their rows are not."""
    machines = {}
    for result in results:
        fixed = {key: value for key, value in result.machine.items() if key != "load_1_minute"}
        machines[json.dumps(fixed, sort_keys=True)] = fixed
    days = sorted({result.measured_at[:10] for result in results})
    loads = [result.machine["load_1_minute"] for result in results]
    sentences = [_describe_machine(machine) for machine in machines.values()]
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    load = f"1-minute load after each benchmark {min(loads):g} to {max(loads):g}"
    return f"{' '.join(sentences)} Measured {when}; {load}."


def _describe_machine(machine: dict[str, Any]) -> str:
    versions = ", ".join(
        f"{name} {version}" for name, version in machine["packages"].items() if version
    )
    return (
        f"{machine['cpu']}, {machine['num_cores']} cores, Python {machine['python']}, {versions}."
    )


def update_document(text: str, table: str) -> str:
    """Return the document with the table between its two markers.

    Raises:
        ValueError: A marker is missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{DOCUMENT.name} lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def main() -> int:
    """Rewrite the table; exit with 3 where there is no result of full size."""
    results = load_results(FOLDER)
    if not results:
        print("no results: run pytest benchmarks first, without BENCH_QUICK", file=sys.stderr)
        return 3
    DOCUMENT.write_text(update_document(DOCUMENT.read_text(), render(results)))
    print(f"{DOCUMENT}: {sum(len(result.rows) for result in results)} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
