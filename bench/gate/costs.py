"""Ratios of speed and memory of all pairs, with the noise to judge them by; passes no verdict."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, median

from bench.gate.pairs import Pair
from bench.gate.values import (
    FAMILIES,
    Cost,
    GateSettings,
    History,
    Measured,
    Metric,
    Row,
    Verdict,
)
from bench.significance import Noise, RatioEffect, between_run_noise, pool_noise, ratio_effect

_RATES = frozenset({Metric.TRAIN_RATE, Metric.INFER_RATE})


_JITTER_SECONDS = 5e-5
"""What a system takes from a single call now and then: a run in ten may be so much slower, though
all others agree to a percent."""


@dataclass(frozen=True)
class CostChange:
    """A cost of a pair: rate, seconds or bytes of both sides, and the log of their ratio."""

    baseline: float
    candidate: float
    effect: RatioEffect


@dataclass(frozen=True)
class CostComparison:
    """Costs that could be compared, and rows for those that could not."""

    changes: Mapping[tuple[str, Metric], CostChange]
    rows: tuple[Row, ...]


def compare_costs(pairs: Iterable[Pair], settings: GateSettings) -> CostComparison:
    """Return the ratio of every cost that both sides of a pair measured.

    Args:
        pairs: Comparable cells.
        settings: Replicates, their seed and the level of intervals.
    """
    changes: dict[tuple[str, Metric], CostChange] = {}
    rows: list[Row] = []
    for pair in pairs:
        for metric in Metric:
            old, new = pair.baseline.costs.get(metric), pair.candidate.costs.get(metric)
            row = _settle(pair, metric, old, new)
            if row is not None:
                rows.append(row)
            elif old is not None and new is not None:
                changes[pair.baseline.cell, metric] = _change(metric, old, new, settings)
    return CostComparison(changes, tuple(rows))


def _settle(pair: Pair, metric: Metric, old: Cost | None, new: Cost | None) -> Row | None:
    """Return the row of a cost that cannot be compared, or None."""
    name, changes = pair.baseline.cell, pair.changes
    if old is None and new is not None:
        reason = "the baseline has no value of it"
        return Row(name, metric, Verdict.NEW, reasons=(reason,), changes=changes)
    if old is not None and new is None:
        reason = "the candidate has no value of it"
        return Row(name, metric, Verdict.MISSING, reasons=(reason,), changes=changes)
    if old is None or new is None:
        return None
    reason = _obstacle(old, new)
    if reason:
        return Row(name, metric, Verdict.NOT_COMPARABLE, reasons=(reason,), changes=changes)
    reason = _flaw(old, new)
    if reason:
        return Row(
            cell=name,
            metric=metric,
            verdict=Verdict.INCONCLUSIVE,
            baseline=_value(metric, old),
            candidate=_value(metric, new),
            reasons=(reason,),
            changes=changes,
        )
    return None


def _flaw(old: Cost, new: Cost) -> str:
    sides = (("baseline", old), ("candidate", new))
    return "; ".join(f"the {side} was {cost.flaw}" for side, cost in sides if cost.flaw)


def _obstacle(old: Cost, new: Cost) -> str:
    if old.counted != new.counted:
        return "one side has bytes that the device counted, the other resident bytes"
    if old.batch_size != new.batch_size:
        return f"they were measured at batch sizes {old.batch_size} and {new.batch_size}"
    for side, cost in (("baseline", old), ("candidate", new)):
        values = [value for run in cost.runs for value in run]
        if not values or not all(cost.runs) or not all(0 < value < math.inf for value in values):
            return f"the {side} has a value that is not above 0, so there is no ratio"
    return ""


def _change(metric: Metric, old: Cost, new: Cost, settings: GateSettings) -> CostChange:
    # Seconds per repeat fall where a rate rises, so the ratio of rates is the other way round.
    first, second = (new.runs, old.runs) if metric in _RATES else (old.runs, new.runs)
    effect = ratio_effect(
        first,
        second,
        num_replicates=settings.num_replicates,
        seed=settings.seed,
        level=1 - settings.alpha,
    )
    return CostChange(_value(metric, old), _value(metric, new), effect)


def _value(metric: Metric, cost: Cost) -> float:
    middle = math.exp(fmean(math.log(median(run)) for run in cost.runs))
    return (cost.batch_size or 1) / middle if metric in _RATES else middle


def cost_noises(
    pairs: Iterable[Pair],
    metrics: Iterable[tuple[str, Metric]],
    history: History,
    settings: GateSettings,
) -> dict[tuple[str, Metric], Noise]:
    """Return the noise of a run's log value, for every cost that was compared.

    From the history of the cell, from several runs on one side, and from the other cells of the
    grid; an assumption where none of these tells.

    Args:
        pairs: Comparable cells.
        metrics: Cell and metric of each cost.
        history: Values of earlier nights.
        settings: Floors and assumptions.
    """
    by_cell = {pair.baseline.cell: pair for pair in pairs}
    wanted = list(metrics)
    own = {
        (cell, metric): between_run_noise(_log_levels(by_cell[cell], metric, history))
        for cell, metric in wanted
    }
    known: dict[Metric, list[Noise]] = defaultdict(list)
    for (_, metric), noise in own.items():
        if noise is not None:
            known[metric].append(noise)
    return {
        (cell, metric): pool_noise(
            noise,
            known[metric],
            floor=_floor(by_cell[cell].baseline, metric, settings),
            assumed=settings.assumed_noise.get(_kind(by_cell[cell].candidate, metric), 0.0),
        )
        for (cell, metric), noise in own.items()
    }


def _floor(cell: Measured, metric: Metric, settings: GateSettings) -> float:
    """Return the least spread that a history is believed to show, as a share of the value."""
    floor = settings.noise_floors.get(FAMILIES[metric], 0.0)
    if metric is not Metric.LATENCY:
        return floor
    return max(floor, _JITTER_SECONDS / _value(metric, cell.costs[metric]))


def _kind(cell: Measured, metric: Metric) -> str:
    return "device_memory" if cell.costs[metric].counted else FAMILIES[metric]


def _log_levels(pair: Pair, metric: Metric, history: History) -> list[list[float]]:
    """Return the levels of the history, or without one the runs of either side."""
    known = history.get((pair.baseline.cell, metric), ())
    sides = (pair.baseline, pair.candidate)
    given = known or [[median(run) for run in side.costs[metric].runs] for side in sides]
    return [[math.log(value) for value in level if value > 0] for level in given]
