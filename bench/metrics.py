"""Logits -> scores and packed predictions, in NumPy alone; knows no model and no store."""

import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.digests import digest_strings
from bench.errors import StrategyError
from bench.record import ClassScore, Outcomes, PredictionSet, Scores

_NUM_ECE_BINS = 15
_TOP = 5

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class UnpackedPredictions:
    """Per-example predictions on one split as arrays; see `PredictionSet` for their meaning.

    Attributes:
        ids: Example ids, in the order of every array.
        labels: True class, int32, shape (N,).
        predicted: Most likely class, int32, shape (N,).
        true_probability: Probability of the true class, float32, shape (N,).
        top5: Most likely classes, int32, shape (N, min(5, K)), most likely first.
    """

    split: str
    ids: tuple[str, ...]
    labels: NDArray[np.int32]
    predicted: NDArray[np.int32]
    true_probability: NDArray[np.float32]
    top5: NDArray[np.int32]


def score_logits(logits: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> Scores:
    """Return the quality of logits on one split.

    Macro-F1 is the mean over classes that occur among labels or predictions, and balanced accuracy
    the mean recall over classes that occur among labels, both as scikit-learn has them. A ratio
    with denominator 0 counts as 0. Of equal logits the class with the lower index wins.

    Args:
        logits: Finite scores before the softmax, shape (N, K), N >= 1.
        labels: Class indices in [0, K), shape (N,).
        class_names: K names.

    Raises:
        StrategyError: A logit is not finite, or shapes and labels do not fit.

    Source: scikit-learn's f1_score, balanced_accuracy_score and log_loss; ECE as in Guo et al.,
    2017, with equal-width bins (low, high] of the top probability.
    """
    true = _checked(logits, labels, len(class_names))
    log_probability = _log_softmax(logits)
    ranked = _top_classes(logits)
    predicted = ranked[:, 0]
    per_class = _class_scores(true, predicted, class_names)
    occurring = np.union1d(true, predicted)
    return Scores(
        num_examples=len(true),
        accuracy=float((predicted == true).mean()),
        top5_accuracy=_top5_accuracy(ranked, true, len(class_names)),
        macro_f1=float(np.mean([per_class[k].f1 for k in occurring])),
        balanced_accuracy=float(np.mean([per_class[k].recall for k in np.unique(true)])),
        nll=float(-log_probability[np.arange(len(true)), true].mean()),
        ece=_calibration_error(np.exp(log_probability.max(axis=1)), predicted == true),
        per_class=per_class,
    )


def pack_predictions(
    split_name: Literal["val", "test"],
    ids: Sequence[str],
    ids_digest: str,
    logits: np.ndarray,
    labels: np.ndarray,
) -> PredictionSet:
    """Return per-example predictions as the blobs that a record keeps.

    Args:
        split_name: Which split.
        ids: Example ids, in the order of the logits.
        ids_digest: Digest of the ids, see `Split`.
        logits: Finite scores before the softmax, shape (N, K).
        labels: Class indices in [0, K), shape (N,).

    Raises:
        StrategyError: As `score_logits`, or the number of ids is not N.
    """
    true = _checked(logits, labels, logits.shape[-1])
    if len(ids) != len(true):
        raise StrategyError(f"{split_name} predictions: {len(ids)} ids for {len(true)} examples")
    ranked = _top_classes(logits)
    probability = np.exp(_log_softmax(logits)[np.arange(len(true)), true])
    return PredictionSet(
        split=split_name,
        num_examples=len(true),
        ids_digest=ids_digest,
        ids=zlib.compress(json.dumps(list(ids)).encode()),
        labels=true.astype("<i4").tobytes(),
        predicted=ranked[:, 0].astype("<i4").tobytes(),
        true_probability=probability.astype("<f4").tobytes(),
        top5=ranked.astype("<i4").tobytes(),
    )


def unpack_predictions(predictions: PredictionSet) -> UnpackedPredictions:
    """Return the arrays that `pack_predictions` packed."""
    top5 = np.frombuffer(predictions.top5, dtype="<i4")
    return UnpackedPredictions(
        split=predictions.split,
        ids=_unpack_ids(predictions.ids),
        labels=np.frombuffer(predictions.labels, dtype="<i4"),
        predicted=np.frombuffer(predictions.predicted, dtype="<i4"),
        true_probability=np.frombuffer(predictions.true_probability, dtype="<f4"),
        top5=top5.reshape(predictions.num_examples, -1),
    )


def pack_outcomes(ids_digest: str, labels: bytes, predicted: bytes) -> Outcomes | None:
    """Return which examples are right as a bit each, or None where there is no example.

    Args:
        ids_digest: See `PredictionSet`.
        labels: As a `PredictionSet` keeps them.
        predicted: Likewise, of as many examples.
    """
    if not labels or len(labels) != len(predicted) or len(labels) % 4:
        return None
    right = np.frombuffer(labels, dtype="<i4") == np.frombuffer(predicted, dtype="<i4")
    bits = b64encode(np.packbits(right).tobytes()).decode("ascii")
    return Outcomes(ids_digest=ids_digest, num_examples=len(right), correct=bits)


def outcome_bits(outcomes: Outcomes) -> NDArray[np.uint8]:
    """Return the bytes that `np.packbits` made of the outcomes, shape (ceil(N / 8),)."""
    return np.frombuffer(b64decode(outcomes.correct), dtype=np.uint8)


def join_outcomes(parts: Sequence[Outcomes]) -> Outcomes:
    """Return the outcomes of several splits as those of one, in the order given."""
    bits = [np.unpackbits(outcome_bits(part), count=part.num_examples) for part in parts]
    return Outcomes(
        ids_digest=digest_strings(part.ids_digest for part in parts),
        num_examples=sum(part.num_examples for part in parts),
        correct=b64encode(np.packbits(np.concatenate(bits)).tobytes()).decode("ascii"),
    )


def join_predictions(parts: Sequence[UnpackedPredictions]) -> UnpackedPredictions:
    """Return the predictions on several splits as those on one, in the order given."""
    return UnpackedPredictions(
        split=parts[0].split,
        ids=tuple(id_ for part in parts for id_ in part.ids),
        labels=np.concatenate([part.labels for part in parts]),
        predicted=np.concatenate([part.predicted for part in parts]),
        true_probability=np.concatenate([part.true_probability for part in parts]),
        top5=np.concatenate([part.top5 for part in parts]),
    )


@lru_cache(maxsize=64)
def _unpack_ids(packed: bytes) -> tuple[str, ...]:
    """Return the ids of a split; a thousand cells tested on one split share them."""
    return tuple(json.loads(zlib.decompress(packed)))


def _checked(logits: np.ndarray, labels: np.ndarray, num_classes: int) -> Ints:
    """Return the labels as int64 once logits and labels are known to fit each other."""
    true = np.asarray(labels, dtype=np.int64)
    if logits.shape != (len(true), num_classes) or not len(true):
        raise StrategyError(
            f"logits of shape {logits.shape} for {len(true)} labels and {num_classes} classes; "
            f"expected ({len(true)}, {num_classes}) with at least one example"
        )
    if true.min() < 0 or true.max() >= num_classes:
        raise StrategyError(
            f"labels from {true.min()} to {true.max()}, but classes are 0 to {num_classes - 1}"
        )
    broken = int((~np.isfinite(logits)).any(axis=1).sum())
    if broken:
        raise StrategyError(f"logits of {broken} of {len(true)} examples are not finite")
    return true


def _log_softmax(logits: np.ndarray) -> Floats:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def _top_classes(logits: np.ndarray) -> Ints:
    """Return up to five class indices per example, most likely first, ties by index."""
    count = min(_TOP, logits.shape[1])
    order = np.argsort(-logits, axis=1, kind="stable")
    return order[:, :count]


def _top5_accuracy(ranked: Ints, true: Ints, num_classes: int) -> float | None:
    if num_classes <= _TOP:
        return None
    return float((ranked == true[:, None]).any(axis=1).mean())


def _class_scores(
    true: Ints, predicted: Ints, class_names: Sequence[str]
) -> tuple[ClassScore, ...]:
    count = len(class_names)
    support = np.bincount(true, minlength=count)
    claimed = np.bincount(predicted, minlength=count)
    hits = np.bincount(true[true == predicted], minlength=count)
    return tuple(
        ClassScore(
            name=name,
            precision=_ratio(hits[k], claimed[k]),
            recall=_ratio(hits[k], support[k]),
            f1=_ratio(2 * hits[k], support[k] + claimed[k]),
            support=int(support[k]),
        )
        for k, name in enumerate(class_names)
    )


def _ratio(part: int, whole: int) -> float:
    return float(part / whole) if whole else 0.0


def _calibration_error(confidence: Floats, correct: NDArray[np.bool_]) -> float:
    """Return the mean gap between confidence and accuracy, weighted by examples per bin."""
    bins = np.clip(np.ceil(confidence * _NUM_ECE_BINS).astype(int) - 1, 0, _NUM_ECE_BINS - 1)
    gap = np.bincount(bins, weights=confidence - correct, minlength=_NUM_ECE_BINS)
    return float(np.abs(gap).sum() / len(confidence))
