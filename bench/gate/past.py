"""Earlier runs of a suite -> one value per cell, metric and run; knows no verdict and no database.

A run in this short form is small enough to travel in a baseline, so that a machine whose store is
empty still knows how much equal runs vary.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import chain

from bench.digests import digest_value
from bench.gate.reading import describe_numerics
from bench.gate.records import identify
from bench.gate.values import Cost, History, Measured, Metric
from bench.significance import find_changes, levels
from bench.spec import Frozen
from bench.summary import Memory, RecordSummary, ScoreSummary, SpeedSummary, Status

_FEW = 4
"""Values that a level needs before later ones can be said to have left it."""


class PastCell(Frozen):
    """A cell of a run, over its seeds.

    Attributes:
        conditions: Digest of all that must be equal for values to be one series: keys by seed,
            class of device, numerics, batch sizes.
        values: Metric -> mean of a quality (fraction, nats), median of a cost (seconds per batch or
            call, bytes). Speeds that were measured on a busy machine are absent.
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
    return PastRun(
        scope=scope,
        run_id=records[0].run_id,
        started_at=min(record.started_at for record in records),
        cells={
            name: PastCell(conditions=conditions(group), values=_values(group))
            for name, group in groups.items()
            if all(record.status is Status.OK for record in group)
        },
    )


def conditions(records: Sequence[RecordSummary]) -> str:
    """Return the digest of what must be equal for the values of two runs to be one series.

    Args:
        records: Of one cell, one per seed.
    """
    ordered = sorted(records, key=lambda record: record.cell.seed)
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


def _values(records: Sequence[RecordSummary]) -> dict[Metric, float]:
    tests = [record.test for record in records if record.test is not None]
    train = [record.train_profile for record in records if record.train_profile is not None]
    infer = [record.infer_profile for record in records if record.infer_profile is not None]
    memory = [Memory(host_bytes=record.host_peak_bytes) for record in records]
    found: dict[Metric, float | None] = {
        Metric.ACCURACY: _mean(tests, "accuracy"),
        Metric.MACRO_F1: _mean(tests, "macro_f1"),
        Metric.NLL: _mean(tests, "nll"),
        Metric.TRAIN_RATE: _speed(
            train, [each.batch_size / each.examples_per_second for each in train]
        ),
        Metric.INFER_RATE: _speed(
            infer, [each.batch_size / each.examples_per_second for each in infer]
        ),
        Metric.LATENCY: _speed(
            infer, [one.p50_seconds for p in infer for one in p.latencies if one.batch_size == 1]
        ),
        Metric.TRAIN_MEMORY: _peak(each.memory for each in train),
        Metric.INFER_MEMORY: _peak(each.memory for each in infer),
        Metric.HOST_MEMORY: _peak(memory),
    }
    # Seven digits are far more than any of these is known to, and half the size of a baseline.
    return {name: float(f"{value:.7g}") for name, value in found.items() if value is not None}


def _mean(scores: Sequence[ScoreSummary], name: str) -> float | None:
    values = [float(getattr(each, name)) for each in scores]
    return statistics.fmean(values) if values else None


def _speed(profiles: Sequence[SpeedSummary], seconds: Sequence[float]) -> float | None:
    if not seconds or any(profile.is_disturbed for profile in profiles):
        return None
    return statistics.median(dict.fromkeys(seconds))


def _peak(memories: Iterable[Memory]) -> float | None:
    given = list(memories)
    counted = [each.allocated_bytes for each in given if each.allocated_bytes is not None]
    peaks = counted or [each.host_bytes for each in given if each.host_bytes is not None]
    return float(max(peaks)) if peaks else None


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
    return tuple(sorted(found.values(), key=lambda run: run.started_at))


def value_history(
    past: Sequence[PastRun], reference: Mapping[str, str], tonight: Sequence[PastRun] = ()
) -> History:
    """Return the values of equal cells on equal machines, by level; see `History`.

    Steps cut a series into levels. So does its end, where it has gone off: a regression that nobody
    has mended yet must not pass for noise and excuse itself.

    Args:
        past: Earlier runs, oldest first.
        reference: Name of a cell -> the `conditions` that count as equal.
        tonight: Runs that are judged, if several repeat the suite: a level of their own.
    """
    found: dict[tuple[str, Metric], list[Sequence[float]]] = defaultdict(list)
    for name, values in _series(past, reference).items():
        found[name] += _levels(values)
    for name, values in _series(tonight, reference).items():
        found[name].append(values)
    return dict(found)


def _series(
    runs: Iterable[PastRun], reference: Mapping[str, str]
) -> dict[tuple[str, Metric], list[float]]:
    series: dict[tuple[str, Metric], list[float]] = defaultdict(list)
    for run in runs:
        for name, cell in run.cells.items():
            if cell.conditions == reference.get(name):
                for metric, value in cell.values.items():
                    series[name, metric].append(value)
    return series


def _levels(values: Sequence[float]) -> list[Sequence[float]]:
    *settled, last = levels(values, find_changes(values))
    return [*settled, *_cut_end(last)]


def _cut_end(values: Sequence[float]) -> tuple[Sequence[float], ...]:
    """Return a level, and apart from it the values at its end that have left it for good so far.

    That is where all of them lie to one side of every earlier value, by more than half of the range
    of these.
    """
    for start in range(_FEW, len(values)):
        early, late = values[:start], values[start:]
        low, high = min(early), max(early)
        margin = (high - low) / 2
        if min(late) > high + margin or max(late) < low - margin:
            return early, late
    return (values,)


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
