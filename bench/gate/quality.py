"""Differences of accuracy, macro-F1 and NLL of all pairs, resampled together; passes no verdict."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.gate.pairs import Pair
from bench.gate.values import GateSettings, Metric
from bench.metrics import Floats, UnpackedPredictions
from bench.significance import (
    PairedEffect,
    macro_f1,
    macro_f1_replicates,
    mean_replicates,
    paired_effect,
    resample_weights,
    sign_flip_p,
    sum_by_class,
)
from bench.significance.resampling import Weights

_CHUNK = 32
"""Cells per matrix product: enough to use the processor, few enough to hold."""

_LEAST_PROBABILITY = float(np.finfo(np.float32).tiny)
"""A probability that rounds to 0 in single precision costs 87 nats, not infinitely many."""


@dataclass(frozen=True)
class Quality:
    """A metric of a pair: means over seeds, and the paired difference."""

    baseline: float
    candidate: float
    effect: PairedEffect


@dataclass(frozen=True)
class _Arrays:
    """Predictions of a pair by seed, in one order of examples: shape (S, N), labels (N,)."""

    labels: np.ndarray
    predicted: tuple[np.ndarray, np.ndarray]
    nll: tuple[Floats, Floats]

    @property
    def correct(self) -> tuple[np.ndarray, np.ndarray]:
        return self.predicted[0] == self.labels, self.predicted[1] == self.labels


def compare_quality(
    pairs: Iterable[Pair], settings: GateSettings
) -> dict[tuple[str, Metric], Quality]:
    """Return the three qualities of every pair whose seeds all keep predictions.

    Args:
        pairs: Comparable cells.
        settings: Replicates, their seed and the level of intervals.
    """
    groups: dict[tuple[str, ...], list[tuple[str, _Arrays]]] = defaultdict(list)
    for pair in pairs:
        ids, arrays = _arrays(pair)
        if arrays is not None:
            groups[ids].append((pair.baseline.cell, arrays))
    found: dict[tuple[str, Metric], Quality] = {}
    for ids, cells in groups.items():
        resampling = _Resampling(len(ids), settings)
        for start in range(0, len(cells), _CHUNK):
            found |= resampling.compare(cells[start : start + _CHUNK])
    return found


def _arrays(pair: Pair) -> tuple[tuple[str, ...], _Arrays | None]:
    before = [seed.predictions for seed, _ in pair.seeds if seed.predictions is not None]
    after = [seed.predictions for _, seed in pair.seeds if seed.predictions is not None]
    if not len(before) == len(after) == len(pair.seeds):
        return (), None
    arrays = _Arrays(
        labels=before[0].labels,
        predicted=(_stacked(before), _stacked(after)),
        nll=(_nll(before), _nll(after)),
    )
    return before[0].ids, arrays


def _stacked(predictions: Sequence[UnpackedPredictions]) -> np.ndarray:
    return np.stack([seed.predicted for seed in predictions])


def _nll(predictions: Sequence[UnpackedPredictions]) -> Floats:
    probability = np.stack([seed.true_probability for seed in predictions]).astype(np.float64)
    return np.asarray(-np.log(np.maximum(probability, _LEAST_PROBABILITY)))


class _Resampling:
    """Bootstrap samples of one test split, for every cell that was tested on it."""

    def __init__(self, num_examples: int, settings: GateSettings) -> None:
        self._settings = settings
        self._weights = resample_weights(num_examples, settings.num_replicates, settings.seed)
        self._support: dict[tuple[bytes, int], Weights] = {}

    def compare(self, cells: Sequence[tuple[str, _Arrays]]) -> dict[tuple[str, Metric], Quality]:
        rows = [_linear_differences(arrays) for _, arrays in cells]
        replicates = mean_replicates(np.concatenate(rows), self._weights)
        found: dict[tuple[str, Metric], Quality] = {}
        start = 0
        for (name, arrays), row in zip(cells, rows, strict=True):
            own = replicates[start : start + len(row)]
            start += len(row)
            half = len(row) // 2
            found[name, Metric.ACCURACY] = self._accuracy(arrays, own[:half])
            found[name, Metric.NLL] = self._quality(
                arrays.nll[0].mean(axis=1), arrays.nll[1].mean(axis=1), own[half:]
            )
            found[name, Metric.MACRO_F1] = self._macro_f1(arrays)
        return found

    def _accuracy(self, arrays: _Arrays, replicates: Floats) -> Quality:
        before, after = arrays.correct
        return self._quality(
            before.mean(axis=1), after.mean(axis=1), replicates, sign_flip_p(before, after)
        )

    def _quality(
        self, before: Floats, after: Floats, replicates: Floats, exact_p: float | None = None
    ) -> Quality:
        effect = paired_effect(
            (before, after),
            replicates,
            num_examples=len(self._weights),
            exact_p=exact_p,
            level=1 - self._settings.alpha,
        )
        return Quality(float(before.mean()), float(after.mean()), effect)

    def _macro_f1(self, arrays: _Arrays) -> Quality:
        num_classes = 1 + int(max(arrays.labels.max(), *(side.max() for side in arrays.predicted)))
        before, after = (
            np.array([macro_f1(arrays.labels, seed) for seed in side]) for side in arrays.predicted
        )
        shape = (len(before), self._weights.shape[1])
        if np.array_equal(*arrays.predicted):
            return self._quality(before, after, np.zeros(shape))
        support = self._class_support(arrays.labels, num_classes)
        replicates = np.empty(shape)
        for index, (first, second) in enumerate(zip(*arrays.predicted, strict=True)):
            replicates[index] = macro_f1_replicates(
                arrays.labels, second, self._weights, support
            ) - macro_f1_replicates(arrays.labels, first, self._weights, support)
        return self._quality(before, after, replicates)

    def _class_support(self, labels: np.ndarray, num_classes: int) -> Weights:
        name = (labels.tobytes(), num_classes)
        if name not in self._support:
            self._support[name] = sum_by_class(labels, self._weights, num_classes)
        return self._support[name]


def _linear_differences(arrays: _Arrays) -> Floats:
    """Return candidate minus baseline per seed and example: correctness, then NLL, (2 S, N)."""
    before, after = arrays.correct
    correct = after.astype(np.float64) - before
    return np.concatenate([correct, arrays.nll[1] - arrays.nll[0]])
