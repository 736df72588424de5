"""Rows that benchmarks leave behind, as JSON, and the machine they were measured on."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from benchmarks.measure import QUICK, Timing

FOLDER = Path(__file__).parent / "results"
_PACKAGES = ("torch", "torchvision", "timm", "scikit-learn", "numpy", "pillow")


@dataclass(frozen=True)
class Target:
    """A bound on a ratio, or on a value with a unit; without a bound it is only reported."""

    kind: Literal["at least", "at most", "reported"] = "reported"
    bound: float | None = None

    def met(self, value: float | None) -> bool | None:
        """Return whether a value keeps the bound; None where either is missing."""
        if value is None or self.bound is None:
            return None
        return value >= self.bound if self.kind == "at least" else value <= self.bound


def at_least(bound: float) -> Target:
    """Return a lower bound."""
    return Target("at least", bound)


def at_most(bound: float) -> Target:
    """Return an upper bound."""
    return Target("at most", bound)


@dataclass(frozen=True)
class Row:
    """One line of the table in docs/performance.md.

    Attributes:
        claim: What it belongs to, ``1`` to ``9``.
        what: What was compared, for people.
        setting: Backbone and sizes.
        ratio: The number that the target bounds; None where it could not be measured.
        unit: ``x`` for ratios, or ``s``, ``MiB``, ``exponent``, ``relative``.
        cpu_ratio: The same ratio of processor seconds.
        bench_seconds: Median wall seconds of bench.
        plain_seconds: Median wall seconds of the reference.
        note: What was extrapolated, or why there is no number.
    """

    claim: str
    what: str
    setting: str
    ratio: float | None
    target: Target = Target()
    unit: str = "x"
    cpu_ratio: float | None = None
    bench_seconds: float | None = None
    plain_seconds: float | None = None
    note: str = ""

    @property
    def label(self) -> str:
        """The row's name in messages."""
        return f"{self.claim}: {self.what}, {self.setting}"

    @property
    def met(self) -> bool | None:
        """Whether the target is kept."""
        return self.target.met(self.ratio)


def compare(
    claim: str, what: str, setting: str, *, bench: Timing, plain: Timing, **fields: Any
) -> Row:
    """Return the row of two timings: how many times as long the plain way takes.

    Args:
        claim: See `Row`.
        what: See `Row`.
        setting: See `Row`.
        bench: Of bench.
        plain: Of the reference.
        fields: ``target``, ``note``; ``inverse=True`` gives bench's time over the plain one.
    """
    inverse = fields.pop("inverse", False)
    wall = plain.wall_seconds / bench.wall_seconds
    cpu = plain.cpu_seconds / bench.cpu_seconds if bench.cpu_seconds else None
    return Row(
        claim,
        what,
        setting,
        ratio=1 / wall if inverse else wall,
        cpu_ratio=1 / cpu if inverse and cpu else cpu,
        bench_seconds=bench.wall_seconds,
        plain_seconds=plain.wall_seconds,
        **fields,
    )


def unmet(rows: Sequence[Row]) -> list[str]:
    """Return a sentence per row that misses its target; quick sizes are held to none."""
    if QUICK:
        return []
    return [
        f"{row.label}: {row.ratio:.3g} {row.unit}, target {row.target.kind} {row.target.bound:g}"
        for row in rows
        if row.met is False
    ]


def describe_machine() -> dict[str, Any]:
    """Return what the numbers depend on: processor, cores, versions, and other work."""
    return {
        "cpu": _cpu_name(),
        "num_cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "load_1_minute": round(os.getloadavg()[0], 2),
    }


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def save(name: str, rows: Sequence[Row], folder: Path | None = None) -> Path:
    """Write the rows of one benchmark as JSON; those of quick sizes go to a folder of their own.

    Args:
        name: Of the file.
        rows: What was measured.
        folder: Where; None is ``benchmarks/results``.
    """
    folder = (folder or FOLDER) / "quick" if QUICK else folder or FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    value = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "rows": [asdict(row) for row in rows],
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(value, indent=1) + "\n")
    return path
