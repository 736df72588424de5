"""Scores against scikit-learn's, and predictions through their packed form."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    balanced_accuracy_score,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from bench.errors import StrategyError
from bench.metrics import (
    outcome_bits,
    pack_outcomes,
    pack_predictions,
    score_logits,
    unpack_predictions,
)


def draw(num_examples: int, num_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num_examples)
    logits = rng.normal(size=(num_examples, num_classes)).astype(np.float32)
    logits[np.arange(num_examples), labels] += 1.0
    return logits, labels


def names(count: int) -> list[str]:
    return [f"class {number}" for number in range(count)]


def softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


@settings(max_examples=30, deadline=None)
@given(st.integers(6, 200), st.integers(2, 12), st.integers(0, 1000))
def test_scores_agree_with_scikit_learn(num_examples: int, num_classes: int, seed: int) -> None:
    logits, labels = draw(num_examples, num_classes, seed)
    predicted = logits.argmax(axis=1)
    scores = score_logits(logits, labels, names(num_classes))
    assert scores.num_examples == num_examples
    assert scores.accuracy == pytest.approx((predicted == labels).mean())
    macro = f1_score(labels, predicted, average="macro", zero_division=0)
    assert scores.macro_f1 == pytest.approx(macro)
    recalled = [score.recall for score in scores.per_class if score.support]
    assert scores.balanced_accuracy == pytest.approx(np.mean(recalled))
    every = range(num_classes)
    assert scores.nll == pytest.approx(log_loss(labels, softmax(logits), labels=every), rel=1e-6)
    expected = precision_recall_fscore_support(labels, predicted, labels=every, zero_division=0)
    got = [(s.precision, s.recall, s.f1, s.support) for s in scores.per_class]
    np.testing.assert_allclose(np.transpose(got), expected)


def test_balanced_accuracy_is_scikit_learns_when_every_class_occurs() -> None:
    logits, labels = draw(300, 7, 0)
    scores = score_logits(logits, labels, names(7))
    expected = balanced_accuracy_score(labels, logits.argmax(axis=1))
    assert scores.balanced_accuracy == pytest.approx(expected)


def test_macro_f1_leaves_out_classes_that_neither_occur_nor_are_predicted() -> None:
    logits = np.array([[2.0, 0, 0], [0, 2.0, 0]])
    scores = score_logits(logits, np.array([0, 1]), names(3))
    assert scores.macro_f1 == 1.0
    assert scores.balanced_accuracy == 1.0
    assert scores.per_class[2].support == 0


def test_top5_agrees_with_scikit_learn_and_is_absent_with_five_classes() -> None:
    logits, labels = draw(200, 9, 1)
    scores = score_logits(logits, labels, names(9))
    expected = top_k_accuracy_score(labels, logits, k=5, labels=range(9))
    assert scores.top5_accuracy == pytest.approx(expected)
    logits, labels = draw(50, 5, 1)
    assert score_logits(logits, labels, names(5)).top5_accuracy is None


def test_calibration_error_is_the_weighted_gap_between_confidence_and_accuracy() -> None:
    # Four answers at confidence 0.8, three right; two at 0.6, none right.
    odds = np.log(np.array([0.8, 0.8, 0.8, 0.8, 0.6, 0.6]) / np.array([0.2] * 4 + [0.4] * 2))
    logits = np.stack([odds, np.zeros(6)], axis=1)
    scores = score_logits(logits, np.array([0, 0, 0, 1, 1, 1]), names(2))
    assert scores.ece == pytest.approx((4 * 0.05 + 2 * 0.6) / 6)


def test_a_certain_answer_falls_into_the_last_bin() -> None:
    scores = score_logits(np.array([[1e4, 0.0]]), np.array([0]), names(2))
    assert scores.ece == 0.0
    assert scores.nll == 0.0


def test_large_logits_neither_overflow_nor_lose_the_loss() -> None:
    scores = score_logits(np.array([[1e4, 0.0]], dtype=np.float32), np.array([1]), names(2))
    assert scores.nll == pytest.approx(1e4)


def test_of_equal_logits_the_first_class_wins() -> None:
    scores = score_logits(np.zeros((2, 3)), np.array([0, 1]), names(3))
    assert scores.accuracy == 0.5


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(value: float) -> None:
    logits = np.zeros((4, 3))
    logits[2, 1] = value
    with pytest.raises(StrategyError, match="logits of 1 of 4 examples are not finite"):
        score_logits(logits, np.zeros(4, dtype=int), names(3))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(StrategyError, match=r"shape \(4, 3\) for 4 labels and 5 classes"):
        score_logits(np.zeros((4, 3)), np.zeros(4, dtype=int), names(5))
    with pytest.raises(StrategyError, match="at least one example"):
        score_logits(np.zeros((0, 3)), np.zeros(0, dtype=int), names(3))


def test_labels_beyond_the_classes_are_refused() -> None:
    with pytest.raises(StrategyError, match="labels from 0 to 3, but classes are 0 to 2"):
        score_logits(np.zeros((2, 3)), np.array([0, 3]), names(3))


def test_predictions_survive_packing() -> None:
    logits, labels = draw(40, 8, 2)
    ids = tuple(f"caf\u00e9/{number}" for number in range(40))
    packed = pack_predictions("test", ids, "digest", logits, labels)
    unpacked = unpack_predictions(packed)
    assert packed.num_examples == 40 and packed.ids_digest == "digest"
    assert unpacked.ids == ids and unpacked.split == "test"
    np.testing.assert_array_equal(unpacked.labels, labels)
    np.testing.assert_array_equal(unpacked.predicted, logits.argmax(axis=1))
    np.testing.assert_array_equal(unpacked.top5[:, 0], unpacked.predicted)
    assert unpacked.top5.shape == (40, 5)
    np.testing.assert_allclose(
        unpacked.true_probability, softmax(logits)[np.arange(40), labels], rtol=1e-6
    )


def test_two_classes_keep_two_ranks() -> None:
    logits, labels = draw(6, 2, 3)
    unpacked = unpack_predictions(pack_predictions("val", list("abcdef"), "", logits, labels))
    assert unpacked.top5.shape == (6, 2)


def test_ids_that_do_not_fit_are_refused() -> None:
    logits, labels = draw(6, 2, 3)
    with pytest.raises(StrategyError, match="test predictions: 2 ids for 6 examples"):
        pack_predictions("test", ["a", "b"], "", logits, labels)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.data())
def test_outcomes_are_a_bit_per_example_in_order(labels: list[int], data: st.DataObject) -> None:
    logits = np.array([data.draw(st.permutations([0.0, 1.0, 2.0, 3.0])) for _ in labels])
    kept = pack_predictions("test", list(map(str, labels)), "digest", logits, np.array(labels))
    outcomes = pack_outcomes(kept.ids_digest, kept.labels, kept.predicted)
    bits = np.unpackbits(outcome_bits(outcomes), count=outcomes.num_examples)
    assert (bits == (logits.argmax(axis=1) == labels)).all()
    assert (outcomes.ids_digest, outcomes.num_examples) == ("digest", len(labels))


@pytest.mark.parametrize(
    ("labels", "predicted"), [(b"", b""), (b"1234", b"12345678"), (b"1", b"1")]
)
def test_blobs_that_are_no_predictions_have_no_outcomes(labels: bytes, predicted: bytes) -> None:
    assert pack_outcomes("digest", labels, predicted) is None
