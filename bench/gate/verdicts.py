"""Two runs -> verdicts: tests over the whole grid, corrected together; knows no store, no table."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from bench.gate.costs import compare_costs, cost_noises
from bench.gate.limits import effect_bounds
from bench.gate.pairs import Pair, pair_cells
from bench.gate.quality import compare_quality
from bench.gate.values import (
    FAMILIES,
    HIGHER_IS_BETTER,
    QUALITY,
    GateSettings,
    History,
    Measured,
    Metric,
    Need,
    Row,
    Verdict,
    Verdicts,
)
from bench.significance import (
    Noise,
    PairedEffect,
    Tested,
    adjust_holm,
    between_run_noise,
    detectable_effect,
    paired_test,
    pool_noise,
    pool_spread,
    ratio_test,
    sample_factor,
)

_RUNS_THAT_TELL = 5
"""Runs after which the spread of a grid is known well enough to judge by."""


@dataclass(frozen=True)
class _Sizes:
    """How much was measured: seeds and examples of a quality, or runs and repeats of a cost."""

    groups: int
    samples: int


@dataclass(frozen=True)
class _Test:
    """One test of the grid, before the correction for all of them."""

    pair: Pair
    metric: Metric
    tested: Tested
    baseline: float
    candidate: float
    noise: Noise | None
    sizes: _Sizes

    @property
    def name(self) -> tuple[str, Metric]:
        return self.pair.baseline.cell, self.metric

    @property
    def ratio(self) -> bool:
        return self.metric not in QUALITY


def judge(
    baseline: Sequence[Measured],
    candidate: Sequence[Measured],
    settings: GateSettings | None = None,
    history: History | None = None,
) -> Verdicts:
    """Return the verdict on every cell and metric of a night.

    `regressed` needs two things: significance after Holm's correction over every test of the
    night, and an effect of at least the minimum. A significant smaller effect is `unchanged`.
    Without significance a metric is `unchanged` where the data would have shown the minimum
    effect, or where the interval excludes it, and else `inconclusive`.

    Args:
        baseline: The reference, one value per backbone x dataset x strategy.
        candidate: What is judged.
        settings: How strict; the defaults if None.
        history: Earlier nights' values, for the noise from run to run. Without it, and without
            several runs on a side, costs are judged by what is assumed, see `ASSUMED_NOISE`.

    Raises:
        UsageError: A cell or a seed occurs twice on one side.
    """
    settings, history = settings or GateSettings(), history or {}
    pairing = pair_cells(baseline, candidate)
    tests = _quality_tests(pairing.pairs, history, settings)
    cost_tests, cost_rows = _cost_tests(pairing.pairs, history, settings)
    tests += cost_tests
    rows = [*pairing.settled, *_untested(pairing.pairs, tests), *cost_rows]
    rows += _judged(tests, settings)
    order = {cell.cell: index for index, cell in reversed([*enumerate([*baseline, *candidate])])}
    places = {metric: index for index, metric in enumerate(Metric)}
    rows.sort(key=lambda row: (order[row.cell], places[row.metric] if row.metric else -1))
    return Verdicts(tuple(rows))


def _quality_tests(pairs: Sequence[Pair], history: History, settings: GateSettings) -> list[_Test]:
    found = compare_quality(pairs, settings)
    noises = {name: between_run_noise(history.get(name, ())) for name in found}
    by_cell = {pair.baseline.cell: pair for pair in pairs}
    alike: dict[tuple[Metric, bool, bool], list[PairedEffect]] = defaultdict(list)
    known: dict[Metric, list[Noise]] = defaultdict(list)
    for name, quality in found.items():
        alike[name[1], *_kind(by_cell[name[0]])].append(quality.effect)
        noise = noises[name]
        known[name[1]] += [noise] if noise else []
    grids = {name: pool_spread(effects, repeats=name[2]) for name, effects in alike.items()}
    tests = []
    for (cell, metric), quality in found.items():
        pair = by_cell[cell]
        noise = _quality_noise(noises[cell, metric], known[metric], (pair, metric), settings)
        effect, grid = quality.effect, grids[metric, *_kind(pair)]
        tested = paired_test(effect, grid=grid, noise=noise, level=1 - settings.alpha)
        sizes = _Sizes(effect.num_seeds, effect.num_examples)
        values = (quality.baseline, quality.candidate)
        tests.append(_Test(pair, metric, tested, *values, noise, sizes))
    return tests


def _kind(pair: Pair) -> tuple[bool, bool]:
    """Return whether steps are taken, and whether equal runs predict equally.

    Steps on a GPU add up in any order; a fit from equal features, or anything on a CPU, repeats.
    """
    trains = pair.candidate.effective_batch is not None
    on_cpu = (pair.candidate.device_class or "cpu").startswith("cpu")
    return trains, on_cpu or not trains


def _quality_noise(
    own: Noise | None,
    known: Sequence[Noise],
    place: tuple[Pair, Metric],
    settings: GateSettings,
) -> Noise | None:
    """Return the noise of a quality, or None where equal runs give equal predictions."""
    pair, metric = place
    floor = settings.noise_floors.get(FAMILIES[metric], 0.0)
    _, repeats = _kind(pair)
    assumed = 0.0 if repeats else settings.assumed_noise.get(FAMILIES[metric], 0.0)
    if not known and not floor and not assumed:
        return None
    return pool_noise(own, known, floor=floor, assumed=max(floor, assumed))


def _cost_tests(
    pairs: Sequence[Pair], history: History, settings: GateSettings
) -> tuple[list[_Test], tuple[Row, ...]]:
    compared = compare_costs(pairs, settings)
    noises = cost_noises(pairs, compared.changes, history, settings)
    by_cell = {pair.baseline.cell: pair for pair in pairs}
    tests = []
    for name, change in compared.changes.items():
        effect, noise = change.effect, noises[name]
        tested = ratio_test(effect, noise, level=1 - settings.alpha)
        runs = min(effect.num_baseline, effect.num_candidate)
        sizes = _Sizes(runs, effect.num_repeats)
        values = (change.baseline, change.candidate)
        tests.append(_Test(by_cell[name[0]], name[1], tested, *values, noise, sizes))
    return tests, compared.rows


def _untested(pairs: Sequence[Pair], tests: Sequence[_Test]) -> list[Row]:
    """Return rows for qualities of pairs whose predictions were not kept."""
    tested = {test.name for test in tests}
    rows = []
    for pair in pairs:
        if (pair.baseline.cell, Metric.ACCURACY) in tested:
            continue
        kept = all(seed.predictions is not None for seed, _ in pair.seeds)
        verdict = Verdict.MISSING if kept else Verdict.NOT_COMPARABLE
        side = "candidate" if kept else "baseline"
        reason = f"the {side} keeps no predictions, so nothing can be paired"
        for metric in QUALITY:
            rows.append(
                Row(pair.baseline.cell, metric, verdict, reasons=(reason,), changes=pair.changes)
            )
    return rows


def _judged(tests: Sequence[_Test], settings: GateSettings) -> list[Row]:
    if not tests:
        return []
    adjusted = adjust_holm([test.tested.p for test in tests])
    rejected = int((adjusted <= settings.alpha).sum())
    # What the next test in Holm's order had to pass: the level that nothing found was held to.
    alpha = settings.alpha / max(1, len(tests) - rejected)
    return [_row(test, float(p), alpha, settings) for test, p in zip(tests, adjusted, strict=True)]


@dataclass(frozen=True)
class _Outcome:
    verdict: Verdict
    reason: str
    need: Need | None = None


def _row(test: _Test, adjusted: float, alpha: float, settings: GateSettings) -> Row:
    tested, limit = test.tested, settings.min_effects[FAMILIES[test.metric]]
    detectable = detectable_effect(
        tested.standard_error, tested.freedom, alpha=alpha, power=settings.power
    )
    outcome = _outcome(test, adjusted <= settings.alpha, limit, detectable)
    unscaled = math.exp if test.ratio else float
    changed = outcome.verdict is not Verdict.UNCHANGED
    return Row(
        cell=test.pair.baseline.cell,
        metric=test.metric,
        verdict=outcome.verdict,
        effect=unscaled(tested.estimate),
        low=unscaled(tested.low),
        high=unscaled(tested.high),
        baseline=test.baseline,
        candidate=test.candidate,
        p=tested.p,
        adjusted_p=adjusted,
        min_effect=limit,
        detectable=_share(test, detectable),
        need=outcome.need,
        noise=test.noise.sigma if test.noise else None,
        noise_assumed=test.noise.assumed if test.noise else None,
        reasons=(outcome.reason,),
        changes=test.pair.changes if changed else (),
    )


def _share(test: _Test, detectable: float) -> float:
    """Return a detectable harm as people read it: a difference, or a share of the baseline."""
    if not test.ratio:
        return detectable
    return -math.expm1(-detectable) if test.metric in HIGHER_IS_BETTER else math.expm1(detectable)


def _outcome(test: _Test, significant: bool, limit: float, detectable: float) -> _Outcome:
    tested = test.tested
    low, high = effect_bounds(limit, ratio=test.ratio)
    if significant:
        return _found(test, low, high)
    harm = abs(low if test.metric in HIGHER_IS_BETTER else high)
    if detectable <= harm:
        return _Outcome(Verdict.UNCHANGED, "the minimum effect would have been seen")
    if low < tested.low and tested.high < high:
        return _Outcome(Verdict.UNCHANGED, "the interval excludes the minimum effect")
    return _undecided(test, sample_factor(detectable, harm))


def _undecided(test: _Test, factor: float) -> _Outcome:
    if test.ratio and test.noise is not None and test.noise.assumed:
        need = Need("earlier runs", _RUNS_THAT_TELL)
        reason = (
            "how much equal runs vary here is not known; "
            f"{need.count} {need.what} would tell: bench run --repeat {need.count}"
        )
        return _Outcome(Verdict.INCONCLUSIVE, reason, need)
    need = _need(test, factor)
    reason = (
        f"these data could not have shown the minimum effect; about {need.count} {need.what} would"
    )
    return _Outcome(Verdict.INCONCLUSIVE, reason, need)


def _found(test: _Test, low: float, high: float) -> _Outcome:
    estimate = test.tested.estimate
    if low < estimate < high:
        return _Outcome(Verdict.UNCHANGED, "more than chance, but below the minimum effect")
    better = (estimate > 0) == (test.metric in HIGHER_IS_BETTER)
    verdict = Verdict.IMPROVED if better else Verdict.REGRESSED
    reason = "more than chance, and at least the minimum effect"
    return _Outcome(verdict, reason + _assumption(test))


def _assumption(test: _Test) -> str:
    """Return what a finding rests on where nobody has measured how much runs vary."""
    noise = test.noise
    if noise is None:
        return ", if runs of its one seed repeat exactly" if test.sizes.groups == 1 else ""
    if not noise.assumed or noise.sigma == 0:
        return ""
    spread = f"{noise.sigma:.1%}" if test.ratio else f"{noise.sigma:.2g}"
    return f", if runs vary by {spread} as assumed for want of history"


def _need(test: _Test, factor: float) -> Need:
    """Return what would make the minimum effect detectable, given by how much data falls short.

    The error has a part that more examples or repeats reduce and a part that only more seeds or
    runs do. Where more of the first suffices, that is named, as it is the cheaper.
    """
    share, sizes = test.tested.sampling_share, test.sizes
    rest = 1 / factor - (1 - share)
    if rest > 0:
        what = "repeats of each run" if test.ratio else "test examples"
        return Need(what, math.ceil(sizes.samples * share / rest))
    if test.ratio:
        return Need("runs on each side", math.ceil(sizes.groups * factor))
    left = 1 / factor - share
    scale = (1 - share) / left if left > 0 else factor
    return Need("seeds", math.ceil(sizes.groups * scale))
