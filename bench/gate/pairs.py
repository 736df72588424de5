"""Which cells of two runs face each other and may be compared; knows no statistics.

A key has parts that say what was asked and parts that are content found behind the same names.
Other content, asked for in the same way and tested on the same examples, is what a night is to
judge: a weights file that was replaced. Anything else that differs was another task.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from bench.compare import Difference, differences
from bench.errors import UsageError
from bench.gate.values import Measured, Row, SeedResult, Verdict
from bench.metrics import UnpackedPredictions
from bench.summary import Status

CONTENT_PARTS: Mapping[str, str] = MappingProxyType(
    {"weights": "weights digest", "dataset": "dataset fingerprint"}
)
"""Part of a key that is content -> its name for people. Splits and preprocessing are no content,
even where they follow from it: other examples to learn from, or another input, are another task."""


@dataclass(frozen=True)
class Pair:
    """A cell of the baseline and the same cell of the candidate, comparable in what they hold.

    Attributes:
        seeds: Baseline's and candidate's result of each seed that is ok in both; the candidate's
            predictions are in the order of the baseline's first seed.
        changes: What changed since the baseline.
    """

    baseline: Measured
    candidate: Measured
    seeds: tuple[tuple[SeedResult, SeedResult], ...]
    changes: tuple[Difference, ...]


@dataclass(frozen=True)
class Pairing:
    """Every cell of either run: rows that are settled already, and pairs to compare."""

    settled: tuple[Row, ...]
    pairs: tuple[Pair, ...]


def pair_cells(baseline: Sequence[Measured], candidate: Sequence[Measured]) -> Pairing:
    """Return the pairs that may be compared, and a verdict with its reason for all other cells.

    Args:
        baseline: Cells of the run that counts as the reference.
        candidate: Cells of the run that is judged.

    Raises:
        UsageError: A cell that occurs twice on one side, or has no seed or a seed twice.
    """
    before, after = _by_name(baseline, "baseline"), _by_name(candidate, "candidate")
    settled: list[Row] = []
    pairs: list[Pair] = []
    for name, old in before.items():
        row, pair = _face(old, after.get(name))
        settled += [row] if row else []
        pairs += [pair] if pair else []
    settled += [_newcomer(cell) for name, cell in after.items() if name not in before]
    return Pairing(tuple(settled), tuple(pairs))


def _by_name(cells: Sequence[Measured], side: str) -> dict[str, Measured]:
    found: dict[str, Measured] = {}
    for cell in cells:
        if cell.cell in found:
            raise UsageError(f"the {side} holds the cell {cell.cell!r} twice")
        seeds = [seed.seed for seed in cell.seeds]
        if not seeds or len(set(seeds)) < len(seeds):
            raise UsageError(f"the {side}'s cell {cell.cell!r} needs each seed once, got {seeds}")
        found[cell.cell] = cell
    return found


def _newcomer(cell: Measured) -> Row:
    if not cell.ok:
        return Row(cell.cell, None, Verdict.FAILED, reasons=_failures(cell))
    return Row(cell.cell, None, Verdict.NEW, reasons=("the baseline does not hold this cell",))


def _face(old: Measured, new: Measured | None) -> tuple[Row | None, Pair | None]:
    if new is None:
        reason = "the candidate does not hold this cell"
        return Row(old.cell, None, Verdict.MISSING, reasons=(reason,)), None
    by_seed = {seed.seed: seed for seed in new.seeds}
    common = [(seed, by_seed[seed.seed]) for seed in old.seeds if seed.seed in by_seed]
    changes = _changes(old, new, common)

    def settle(verdict: Verdict, reasons: Iterable[str]) -> Row:
        return Row(old.cell, None, verdict, reasons=tuple(reasons), changes=changes)

    if not new.ok:
        return settle(Verdict.FAILED, _failures(new)), None
    if len(common) < len(old.seeds):
        absent = ", ".join(str(seed.seed) for seed in old.seeds if seed.seed not in by_seed)
        return settle(Verdict.MISSING, [f"the candidate does not hold seed {absent}"]), None
    usable = [(a, b) for a, b in common if a.status is Status.OK]
    fixed = None
    if len(usable) < len(common):
        fixed = settle(Verdict.FIXED, [f"baseline: {reason}" for reason in _failures(old)])
    if not usable:
        return fixed, None
    aligned = _aligned(usable)
    reasons = _obstacles(old, new, usable, aligned is not None)
    if reasons or aligned is None:
        return settle(Verdict.NOT_COMPARABLE, reasons), None
    return fixed, Pair(old, new, aligned, changes)


def _failures(cell: Measured) -> tuple[str, ...]:
    return tuple(
        f"seed {seed.seed} is {seed.status.value}" + (f": {seed.failure}" if seed.failure else "")
        for seed in cell.seeds
        if seed.status is not Status.OK
    )


_Seeds = Sequence[tuple[SeedResult, SeedResult]]


def _obstacles(old: Measured, new: Measured, seeds: _Seeds, aligned: bool) -> list[str]:
    """Return why a cell cannot be compared; none where it can."""
    reasons = []
    asked = _asked_changes(seeds)
    if asked or not all(_is_explained(a, b) for a, b in seeds):
        names = ", ".join(change.name for change in asked) or "parts unknown"
        reasons.append(f"their keys differ, so another task was measured ({names})")
    if old.device_class is None or old.device_class != new.device_class:
        classes = f"{old.device_class} and {new.device_class}"
        reasons.append(f"they ran on different classes of device ({classes})")
    for plan in differences(old.numerics, new.numerics):
        reasons.append(f"the numerics of {plan.name} differ ({plan.first} and {plan.second})")
    if old.effective_batch != new.effective_batch:
        sizes = f"{old.effective_batch} and {new.effective_batch}"
        reasons.append(f"their effective batch sizes differ ({sizes})")
    if not aligned:
        reasons.append("they were tested on different examples or labels")
    return reasons


def _is_explained(old: SeedResult, new: SeedResult) -> bool:
    """Return whether two keys are equal, or content that is known on both sides parts them."""
    if old.key is None or new.key is None:
        return False
    return old.key == new.key or bool(_content_changes([(old, new)]))


def _asked_changes(seeds: _Seeds) -> list[Difference]:
    """Return what was asked in another way, of the first seed in which anything was."""
    for a, b in seeds:
        if a.key is not None and a.key == b.key:
            continue
        # A cell that failed early has no parts, which is no change of them.
        known = a.key_parts and b.key_parts
        parts = differences(_asked(a.key_parts), _asked(b.key_parts), "key: ") if known else []
        found = parts + differences(a.fields, b.fields, "cell: ")
        if found:
            return found
    return []


def _asked(parts: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in parts.items() if name not in CONTENT_PARTS}


def content_changes(old: Measured, new: Measured) -> tuple[Difference, ...]:
    """Return which content behind the same names differs, each by the first seed that shows it.

    Args:
        old: A cell of the baseline.
        new: The same cell of the candidate.
    """
    after = {seed.seed: seed for seed in new.seeds}
    return _content_changes([(a, after[a.seed]) for a in old.seeds if a.seed in after])


def _content_changes(seeds: _Seeds) -> tuple[Difference, ...]:
    found: dict[str, Difference] = {}
    for a, b in seeds:
        for part, name in CONTENT_PARTS.items():
            first, second = a.key_parts.get(part), b.key_parts.get(part)
            if first is not None and second is not None and first != second:
                found.setdefault(name, Difference(name, first, second))
    return tuple(found.values())


def _changes(old: Measured, new: Measured, seeds: _Seeds) -> tuple[Difference, ...]:
    # A cell that failed before there was a plan has not changed its plan.
    planned = old.numerics and new.numerics
    return (
        *_content_changes(seeds),
        *differences(old.versions, new.versions),
        *(differences(old.numerics, new.numerics, "numerics: ") if planned else ()),
        *_asked_changes(seeds),
    )


def _aligned(seeds: _Seeds) -> tuple[tuple[SeedResult, SeedResult], ...] | None:
    """Return the seeds with all predictions in one order, or None where examples differ."""
    given = [side.predictions for pair in seeds for side in pair if side.predictions is not None]
    if not given:
        return tuple(seeds)
    first = given[0]
    aligned = []
    for pair in seeds:
        sides = []
        for side in pair:
            if side.predictions is None:
                sides.append(side)
                continue
            ordered = _in_order(side.predictions, first)
            if ordered is None:
                return None
            sides.append(replace(side, predictions=ordered))
        aligned.append((sides[0], sides[1]))
    return tuple(aligned)


def _in_order(
    predictions: UnpackedPredictions, first: UnpackedPredictions
) -> UnpackedPredictions | None:
    if predictions.ids != first.ids:
        order = {name: index for index, name in enumerate(first.ids)}
        if len(predictions.ids) != len(order) or set(predictions.ids) != set(order):
            return None
        places = np.argsort([order[name] for name in predictions.ids])
        predictions = replace(
            predictions,
            ids=first.ids,
            labels=predictions.labels[places],
            predicted=predictions.predicted[places],
            true_probability=predictions.true_probability[places],
            top5=predictions.top5[places],
        )
    return predictions if np.array_equal(predictions.labels, first.labels) else None
