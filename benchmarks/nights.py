"""How often the gate cries wolf, and how often it finds the wolf, on real records.

Run: ``python -m benchmarks.nights``. It measures ``benchmarks/nights.yaml`` once with ten seeds and
twelve times with one seed, by the commands that users have, and then makes nights of what it got:

- real re-runs: each of the twelve runs judged by every other one, the rest being the history;
- resampled nights: three seeds against three others, test examples drawn anew, the costs of two
  runs with their repeats drawn anew, the rest being the history. Nothing differs but chance;
- planted changes: the same seeds on both sides at 2,000 test examples, with a loss of accuracy, a
  slowdown and a growth of memory added to one side.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from bench.gate import (
    DEFAULT_LIMITS,
    Cost,
    GateSettings,
    Measured,
    Metric,
    SeedResult,
    Verdict,
    Verdicts,
    judge,
    read_cell,
)
from bench.gate.baseline import Baseline
from bench.gate.earlier import earlier_runs
from bench.gate.night import Candidate, compare_night
from bench.gate.past import PastRun
from bench.gate.reading import timed_backbones
from bench.gate.records import identify, label_records
from bench.metrics import UnpackedPredictions
from bench.record import Record
from bench.store import Store, open_store

SUITE = Path(__file__).with_name("nights.yaml")
ANY_EFFECT = GateSettings(min_effects=dict.fromkeys(DEFAULT_LIMITS, 1e-6))
SPEED = (Metric.TRAIN_RATE, Metric.INFER_RATE)
MEMORY = (Metric.TRAIN_MEMORY, Metric.INFER_MEMORY, Metric.HOST_MEMORY)
_NUM_SEEDS = 3


def main() -> None:
    """Measure, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=12, help="Real re-runs with one seed.")
    parser.add_argument("--trials", type=int, default=200, help="Nights of each kind.")
    parser.add_argument("--folder", type=Path, help="Where the store is kept, or is already.")
    wishes = parser.parse_args()
    folder = wishes.folder or Path(tempfile.mkdtemp(prefix="nights-"))
    path = folder / "nights.db"
    if not path.exists():
        _measure(folder, path, wishes.runs)
    with open_store(str(path), create=False) as store:
        grid = Grid.read(store)
    print(f"{grid.num_runs} real runs, {len(grid.cells)} cells, {platform.processor() or 'CPU'}")
    for line in (*_spreads(grid), *_rerun_lines(grid), *_null_lines(grid, wishes.trials)):
        print(line)
    for line in _power_lines(grid, wishes.trials):
        print(line)


def _measure(folder: Path, path: Path, num_runs: int) -> None:
    environ = os.environ | {"BENCH_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "bench", "run", str(SUITE), "--store", str(path)]
    command += ["--report", str(folder / "report")]
    for more in ([], ["--seeds", "0", "--repeat", str(num_runs)]):
        subprocess.run([*command, *more], env=environ, check=True, stdout=subprocess.DEVNULL)


@dataclass(frozen=True)
class Grid:
    """What was measured.

    Attributes:
        cells: Names.
        seeds: Cell -> results of all seeds of one run.
        runs: Whole records of each run with one seed, oldest first.
        past: These runs in short.
        costs: Cell -> costs per run with one seed.
        templates: Cell -> one measured cell, whose seeds and costs are replaced.
    """

    cells: tuple[str, ...]
    seeds: Mapping[str, tuple[SeedResult, ...]]
    runs: tuple[tuple[Record, ...], ...]
    past: tuple[PastRun, ...]
    costs: Mapping[str, tuple[Mapping[Metric, Cost], ...]]
    templates: Mapping[str, Measured]

    @property
    def num_runs(self) -> int:
        return len(self.runs)

    @classmethod
    def read(cls, store: Store) -> Grid:
        first, *others = store.runs("nights")
        names = label_records(store.summaries(run_id=first.id))
        whole = [tuple(store.whole_records(run.id)) for run in others]
        costs: dict[str, list[Mapping[Metric, Cost]]] = defaultdict(list)
        for records in whole:
            for name, cell in _read(records, names).items():
                costs[name].append(cell.costs)
        templates = _read(store.whole_records(first.id), names)
        return cls(
            cells=tuple(templates),
            seeds={name: cell.seeds for name, cell in templates.items()},
            runs=tuple(whole),
            past=earlier_runs(store, "nights", names, without=[first.id]),
            costs={name: tuple(each) for name, each in costs.items()},
            templates=templates,
        )


def _read(records: Sequence[Record], names: Mapping[str, str]) -> dict[str, Measured]:
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[names[identify(record.cell)]].append(record)
    timed = timed_backbones(records)
    return {name: read_cell(name, group, timed) for name, group in groups.items()}


def _spreads(grid: Grid) -> list[str]:
    lines = ["", "spread from run to run (standard deviation of the log, per cell):"]
    for metric in (*SPEED, Metric.LATENCY, *MEMORY):
        spreads = []
        for costs in grid.costs.values():
            values = [np.log(_middle(each[metric])) for each in costs if metric in each]
            spreads += [f"{100 * statistics.stdev(values):.1f}%"] if len(values) > 2 else []
        lines.append(f"  {metric.value}: {', '.join(spreads) or 'not measured'}")
    flaws = sum(bool(each.flaw) for c in grid.costs.values() for r in c for each in r.values())
    return [*lines, f"  values that are not the model's alone: {flaws}"]


def _middle(cost: Cost) -> float:
    return float(np.median(cost.runs[0]))


# Real re-runs


def _rerun_lines(grid: Grid) -> list[str]:
    pairs = [(i, j) for i in range(grid.num_runs) for j in range(grid.num_runs) if i != j]
    lines = ["", f"real re-runs: {len(pairs)} nights, each run judged by every other one"]
    for title, settings in (("default", GateSettings()), ("any", ANY_EFFECT)):
        found = [_rerun(grid, i, j, settings) for i, j in pairs]
        lines.append(f"  {title} minimum effect: {_red(found)}")
    return lines


def _rerun(grid: Grid, i: int, j: int, settings: GateSettings) -> Verdicts:
    """Judge run j by run i through all that `bench compare` does."""
    run_ids = [records[0].run_id for records in grid.runs]
    baseline = Baseline(
        name="night",
        suite="nights",
        saved_at=datetime.now(UTC),
        bench_version="-",
        run_id=run_ids[i],
        note="",
        records=grid.runs[i],
        past=tuple(run for run in grid.past if run.run_id != run_ids[j]),
    )
    return compare_night(baseline, Candidate("night", grid.runs[j]), settings).verdicts


def _red(found: Sequence[Verdicts]) -> str:
    red = sum(night.exit_code == 1 for night in found)
    odd = sum(night.exit_code not in (0, 1) for night in found)
    rows = Counter(row.verdict for night in found for row in night.rows)
    counts = ", ".join(f"{count} {verdict.value}" for verdict, count in sorted(rows.items()))
    return (
        f"{red} of {len(found)} nights red ({red / len(found):.1%}), {odd} with another exit code "
        f"than 0; rows: {counts}"
    )


# Resampled nights


def _null_lines(grid: Grid, trials: int) -> list[str]:
    lines = ["", f"resampled nights: {trials}, {_NUM_SEEDS} seeds against {_NUM_SEEDS} others"]
    for title, settings in (("default", GateSettings()), ("any", ANY_EFFECT)):
        found = []
        for trial in range(trials):
            draw = Draw(grid, np.random.default_rng(trial))
            before, after = draw.sides()
            found.append(judge(before, after, settings, draw.history()))
        lines.append(f"  {title} minimum effect: {_red(found)}")
    return lines


@dataclass
class Draw:
    """One night drawn from the grid.

    Attributes:
        num_examples: Test examples drawn with replacement; None as many as there are.
        num_runs: Runs on each side.
        repeats: Whether both sides have the same seeds.
    """

    grid: Grid
    rng: np.random.Generator
    num_examples: int | None = None
    num_runs: int = 1
    repeats: bool = False

    def __post_init__(self) -> None:
        order = self.rng.permutation(self.grid.num_runs)
        self.before = order[: self.num_runs]
        self.after = order[self.num_runs : 2 * self.num_runs]
        self.rest = order[2 * self.num_runs :]
        some = next(iter(self.grid.seeds.values()))
        assert some[0].predictions is not None
        there = len(some[0].predictions.ids)
        self.examples = self.rng.integers(0, there, self.num_examples or there)
        seeds = self.rng.permutation(len(some))
        self.first, self.second = seeds[:_NUM_SEEDS], seeds[_NUM_SEEDS : 2 * _NUM_SEEDS]

    def sides(self) -> tuple[list[Measured], list[Measured]]:
        """Return both sides; nothing but chance is between them."""
        seconds = self.first if self.repeats else self.second
        before = [self._cell(name, self.first, self.before) for name in self.grid.cells]
        after = [self._cell(name, seconds, self.after) for name in self.grid.cells]
        return before, after

    def history(self) -> dict[tuple[str, Metric], list[list[float]]]:
        """Return what is known of the costs: earlier runs with the baseline's, and tonight's."""
        levels = (np.concatenate([self.rest, self.before]), self.after)
        return {
            (name, metric): [
                [_middle(self.grid.costs[name][run][metric]) for run in level] for level in levels
            ]
            for name in self.grid.cells
            for metric in self.grid.costs[name][0]
        }

    def _cell(self, name: str, seeds: np.ndarray, runs: np.ndarray) -> Measured:
        drawn = tuple(
            replace(
                self.grid.seeds[name][seed],
                seed=place,
                key=f"{name} {place}",
                predictions=self._predictions(self.grid.seeds[name][seed].predictions),
            )
            for place, seed in enumerate(seeds)
        )
        costs = [self.grid.costs[name][run] for run in runs]
        joined = {
            metric: replace(
                cost,
                runs=tuple(self._repeats(each[metric].runs[0]) for each in costs),
                flaw=next((each[metric].flaw for each in costs if each[metric].flaw), ""),
            )
            for metric, cost in costs[0].items()
        }
        cell = replace(self.grid.templates[name], seeds=drawn, costs=joined)
        # Other seeds in the place of seeds are runs that do not repeat, as training on a GPU.
        return cell if self.repeats else replace(cell, device_class="cuda:drawn", effective_batch=1)

    def _repeats(self, values: Sequence[float]) -> tuple[float, ...]:
        return tuple(self.rng.choice(values, len(values)).tolist())

    def _predictions(self, given: UnpackedPredictions | None) -> UnpackedPredictions:
        assert given is not None
        return replace(
            given,
            ids=tuple(str(place) for place in range(len(self.examples))),
            labels=given.labels[self.examples],
            predicted=given.predicted[self.examples],
            true_probability=given.true_probability[self.examples],
            top5=given.top5[self.examples],
        )


# Planted changes


def _power_lines(grid: Grid, trials: int) -> list[str]:
    lines = ["", f"planted changes: {trials} nights each, 2,000 test examples, {_NUM_SEEDS} seeds"]
    several = max(1, (grid.num_runs - 2) // 2)
    for num_runs in sorted({1, several}):
        found: dict[str, Counter[Verdict]] = defaultdict(Counter)
        for trial in range(trials):
            _plant(grid, trial, num_runs, found)
        for what, counts in found.items():
            total, red = sum(counts.values()), counts[Verdict.REGRESSED]
            lines.append(f"  {num_runs} runs a side, {what}: red in {red} of {total} rows "
                         f"({red / total:.1%})")  # fmt: skip
    return lines


def _plant(grid: Grid, trial: int, num_runs: int, found: dict[str, Counter[Verdict]]) -> None:
    rng = np.random.default_rng(trial)
    draw = Draw(grid, rng, num_examples=2000, num_runs=num_runs, repeats=True)
    before, after = draw.sides()
    large = [_changed(cell, rng, drop=0.03, slowdown=0.10, growth=0.05) for cell in after]
    small = [_changed(cell, rng, drop=0.001, slowdown=0.0, growth=0.0) for cell in after]
    for row in judge(before, large, None, draw.history()).rows:
        if row.metric is Metric.ACCURACY:
            found["3 points of accuracy"][row.verdict] += 1
        elif row.metric in SPEED:
            found[f"10% slower, {row.metric.value}"][row.verdict] += 1
        elif row.metric in MEMORY:
            found[f"5% more memory, {row.metric.value}"][row.verdict] += 1
    for row in judge(before, small, None, draw.history()).rows:
        if row.metric is Metric.ACCURACY:
            found["0.1 points of accuracy"][row.verdict] += 1


def _changed(
    cell: Measured, rng: np.random.Generator, *, drop: float, slowdown: float, growth: float
) -> Measured:
    """Return a cell that lost accuracy, and whose costs are worse."""
    factors = dict.fromkeys((*SPEED, Metric.LATENCY), 1 / (1 - slowdown))
    factors |= dict.fromkeys(MEMORY, 1 + growth)
    costs = {
        metric: replace(
            cost, runs=tuple(tuple(factors[metric] * v for v in run) for run in cost.runs)
        )
        for metric, cost in cell.costs.items()
    }
    seeds = tuple(
        replace(seed, predictions=_worse(seed.predictions, rng, drop)) for seed in cell.seeds
    )
    return replace(cell, costs=costs, seeds=seeds)


def _worse(
    given: UnpackedPredictions | None, rng: np.random.Generator, drop: float
) -> UnpackedPredictions:
    assert given is not None
    right = np.flatnonzero(given.predicted == given.labels)
    lost = rng.choice(right, round(drop * len(given.labels)), replace=False)
    predicted = given.predicted.copy()
    predicted[lost] = (given.labels[lost] + 1) % (1 + int(given.labels.max()))
    return replace(given, predicted=predicted)


if __name__ == "__main__":
    main()
