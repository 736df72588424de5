"""Earlier runs of a suite -> one value per cell, metric and run; knows no verdict and no database.

A run in this short form is small enough to travel in a baseline, so that a machine whose store is
empty still knows how much equal runs vary.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import chain, pairwise

from bench.digests import digest_value
from bench.folds import pool_folds
from bench.gate.reading import (
    cost_flaws,
    describe_numerics,
    highest_peak,
    host_memory,
    timed_backbones,
)
from bench.gate.records import identify
from bench.gate.values import Cost, History, Measured, Metric
from bench.significance import ShiftSettings, find_changes
from bench.spec import Frozen
from bench.summary import Memory, RecordSummary, ScoreSummary, Status

_MARGINS = {2: 5.0, 3: 1.5, 4: 0.8}
_LEAST_MARGIN = 0.5
"""Number of values -> how far beyond their range, in ranges, the next one of a normal distribution
lies once in ten times: Student's quantile over the mean ratio of range to standard deviation."""


class PastCell(Frozen):
    """A cell of a run, over its seeds.

    Attributes:
        conditions: Digest of all that must be equal for values to be one series: keys by seed,
            class of device, numerics, batch sizes.
        values: Metric -> mean of a quality (fraction, nats), median of a cost (seconds per batch or
            call, bytes). What is not the model's alone is absent, see `cost_flaws`.
    """

    conditions: str
    values: dict[Metric, float]


class PastRun(Frozen):
    """A run in short.

    Attributes:
        scope: Names it among all stores.
        cells: By name; only those whose every seed is ok.
    """

    scope: str
    run_id: int
    started_at: datetime
    cells: dict[str, PastCell]


def read_past(
    scope: str, records: Sequence[RecordSummary], names: Mapping[str, str]
) -> PastRun | None:
    """Return a run in short; None where it has no record.

    Args:
        scope: Of the run.
        records: Of the run, one per cell and seed.
        names: Identity -> name, see `label_records`; cells without one are left out.
    """
    if not records:
        return None
    groups: dict[str, list[RecordSummary]] = defaultdict(list)
    for record in records:
        name = names.get(identify(record.cell))
        if name is not None:
            groups[name].append(record)
    timed = timed_backbones(records)
    return PastRun(
        scope=scope,
        run_id=records[0].run_id,
        started_at=min(record.started_at for record in records),
        cells={
            name: PastCell(conditions=conditions(group), values=_values(group, timed))
            for name, group in groups.items()
            if all(record.status is Status.OK for record in group)
        },
    )


def conditions(records: Sequence[RecordSummary]) -> str:
    """Return the digest of what must be equal for the values of two runs to be one series.

    Args:
        records: Of one cell, one per seed.
    """
    ordered = sorted(records, key=lambda record: (record.cell.seed, record.cell.fold or 0))
    effective = [record.effective for record in ordered if record.effective is not None]
    profiles = [each for record in ordered for each in (record.train_profile, record.infer_profile)]
    parts = {
        "keys": [[record.cell.seed, record.key] for record in ordered],
        "devices": sorted({r.environment.device_class for r in ordered if r.environment}),
        "numerics": describe_numerics(effective),
        "effective batches": sorted({each.effective_batch_size or 0 for each in effective}),
        "batches": [None if each is None else each.batch_size for each in profiles],
    }
    return digest_value(parts)[:16]


def _values(records: Sequence[RecordSummary], timed: frozenset[str]) -> dict[Metric, float]:
    tests = [record.test for record in pool_folds(records) if record.test is not None]
    train = [record.train_profile for record in records if record.train_profile is not None]
    infer = [record.infer_profile for record in records if record.infer_profile is not None]
    found: dict[Metric, float | None] = {
        Metric.ACCURACY: _mean(tests, "accuracy"),
        Metric.MACRO_F1: _mean(tests, "macro_f1"),
        Metric.NLL: _mean(tests, "nll"),
        Metric.TRAIN_RATE: _median(each.batch_size / each.examples_per_second for each in train),
        Metric.INFER_RATE: _median(each.batch_size / each.examples_per_second for each in infer),
        Metric.LATENCY: _median(
            one.p50_seconds for each in infer for one in each.latencies if one.batch_size == 1
        ),
        Metric.TRAIN_MEMORY: _peak(each.memory for each in train),
        Metric.INFER_MEMORY: _peak(each.memory for each in infer),
        Metric.HOST_MEMORY: _peak(host_memory(records)),
    }
    # Seven digits are far more than any of these is known to, and half the size of a baseline.
    flaws = cost_flaws(records, timed)
    return {
        name: float(f"{value:.7g}")
        for name, value in found.items()
        if value is not None and name not in flaws
    }


def _mean(scores: Sequence[ScoreSummary], name: str) -> float | None:
    values = [float(getattr(each, name)) for each in scores]
    return statistics.fmean(values) if values else None


def _median(seconds: Iterable[float]) -> float | None:
    """Return the median; a profile that seeds share is given by each of them and counts once."""
    distinct = dict.fromkeys(seconds)
    return statistics.median(distinct) if distinct else None


def _peak(memories: Iterable[Memory]) -> float | None:
    cost = highest_peak(memories)
    return None if cost is None else cost.runs[0][0]


def conditions_by_name(
    records: Sequence[RecordSummary], names: Mapping[str, str]
) -> dict[str, str]:
    """Return name of a cell -> its `conditions` in a run.

    Args:
        records: Of the run, one per cell and seed.
        names: Identity -> name, of every cell; see `label_records`.
    """
    groups: dict[str, list[RecordSummary]] = defaultdict(list)
    for record in records:
        groups[names[identify(record.cell)]].append(record)
    return {name: conditions(group) for name, group in groups.items()}


def past_like(
    past: Iterable[PastRun], records: Sequence[RecordSummary], names: Mapping[str, str]
) -> tuple[PastRun, ...]:
    """Return runs with only those cells that were measured under a run's conditions.

    Args:
        past: Any runs; those of which nothing is left are left out.
        records: Of that run.
        names: See `conditions_by_name`.
    """
    reference = conditions_by_name(records, names)
    found = []
    for run in past:
        cells = {
            name: cell for name, cell in run.cells.items() if cell.conditions == reference.get(name)
        }
        found += [run.model_copy(update={"cells": cells})] if cells else []
    return tuple(found)


def merge_past(*several: Iterable[PastRun]) -> tuple[PastRun, ...]:
    """Return the runs of several lists, each once, oldest first."""
    found = {run.scope: run for run in chain.from_iterable(several)}
    return tuple(sorted(found.values(), key=lambda run: (run.started_at, run.run_id)))


@dataclass(frozen=True)
class Cuts:
    """Where it is known that a level may end.

    Attributes:
        reference: Scope of the run that is the baseline: what came later counts apart from what was
            there when it was chosen. Empty where there is none.
        accepted: Cell and metric -> scope of a run -> why a new level begins with it.
    """

    reference: str = ""
    accepted: Mapping[tuple[str, Metric], Mapping[str, str]] = field(default_factory=dict)


def value_history(
    past: Sequence[PastRun],
    reference: Mapping[str, str],
    tonight: Sequence[PastRun] = (),
    cuts: Cuts | None = None,
) -> History:
    """Return the values of equal cells on equal machines, by level; see `History`.

    Steps, accepted levels and the choice of a baseline cut a series into levels. So does its end,
    where it has gone off: a regression that nobody has mended yet must not pass for noise and
    excuse itself.

    Args:
        past: Earlier runs, oldest first.
        reference: Name of a cell -> the `conditions` that count as equal.
        tonight: Runs that are judged, if several repeat the suite: a level of their own.
        cuts: Known ones.
    """
    cuts = cuts or Cuts()
    found: dict[tuple[str, Metric], list[Sequence[float]]] = defaultdict(list)
    for name, series in _series(past, reference).items():
        reasons = cuts.accepted.get(name, {})
        scopes = [*series]
        accepted = {place: reasons[scope] for place, scope in enumerate(scopes) if scope in reasons}
        chosen = scopes.index(cuts.reference) + 1 if cuts.reference in series else 0
        found[name] += _levels([*series.values()], accepted, chosen)
    for name, series in _series(tonight, reference).items():
        found[name].append([*series.values()])
    return dict(found)


def _series(
    runs: Iterable[PastRun], reference: Mapping[str, str]
) -> dict[tuple[str, Metric], dict[str, float]]:
    """Return cell and metric -> scope of each run -> its value."""
    series: dict[tuple[str, Metric], dict[str, float]] = defaultdict(dict)
    for run in runs:
        for name, cell in run.cells.items():
            if cell.conditions == reference.get(name):
                for metric, value in cell.values.items():
                    series[name, metric][run.scope] = value
    return series


def _levels(
    values: Sequence[float], accepted: Mapping[int, str], chosen: int
) -> list[Sequence[float]]:
    changes = find_changes(values, ShiftSettings(accepted=accepted))
    places = {0, chosen, len(values), *(change.position for change in changes)}
    last = max(change.position for change in changes) if changes else 0
    places.add(last + _end_of_level(values[last:]))
    return [values[start:end] for start, end in pairwise(sorted(places)) if end > start]


def _end_of_level(values: Sequence[float]) -> int:
    """Return how many values a level has before those at its end that have left it for good so far.

    That is where all of them lie to one side of every earlier value, farther away than one more
    value of the level would be but once in ten times, given the range of the earlier ones.
    """
    for start in range(2, len(values)):
        early, late = values[:start], values[start:]
        low, high = min(early), max(early)
        margin = (high - low) * _MARGINS.get(start, _LEAST_MARGIN)
        if min(late) > high + margin or max(late) < low - margin:
            return start
    return len(values)


def add_runs(cell: Measured, condition: str, runs: Iterable[PastRun]) -> Measured:
    """Return a cell whose costs count further runs of it too, one value each.

    Args:
        cell: Of one run.
        condition: Its `conditions`; runs under others are left out.
        runs: Further ones.
    """
    costs = dict(cell.costs)
    for run in runs:
        past = run.cells.get(cell.cell)
        if past is None or past.conditions != condition:
            continue
        for metric, cost in costs.items():
            value = past.values.get(metric)
            if value is not None:
                costs[metric] = _with_run(cost, value)
    return replace(cell, costs=costs)


def _with_run(cost: Cost, value: float) -> Cost:
    return replace(cost, runs=(*cost.runs, (value,)))
