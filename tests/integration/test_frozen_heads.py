"""The arithmetic of neighbours, centroids, ridge and calibration on small numbers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from bench.errors import ProbeError
from bench.strategies.calibration import fit_scale
from bench.strategies.centroids import Metric, measure_centroids
from bench.strategies.neighbours import count_votes, find_neighbours
from bench.strategies.ridge import fit_ridge


def draw(num: int, dim: int, num_classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) % num_classes
    centres = torch.randn((num_classes, dim), generator=generator)
    return centres[labels] + torch.randn((num, dim), generator=generator) + 2, labels


# Neighbours


def test_of_equally_near_keys_the_earlier_is_nearer() -> None:
    keys = F.normalize(torch.tensor([[0.0, 1.0]] + [[1.0, 0.0]] * 40), dim=1)
    labels = torch.arange(41)
    found = find_neighbours(torch.tensor([[2.0, 0.0], [0.0, 3.0]]), keys, labels, 3)
    assert found.labels.tolist() == [[1, 2, 3], [0, 1, 2]]
    assert found.similarity.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_equal_votes_go_to_the_class_with_the_lower_index() -> None:
    keys = F.normalize(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), dim=1)
    found = find_neighbours(torch.tensor([[1.0, 0.0]]), keys, torch.tensor([2, 1]), 2)
    votes = count_votes(found, 2, 0.07, 3)
    assert votes[0, 1] == votes[0, 2] > votes[0, 0]
    assert int(votes.argmax(1)) == 1


def test_shares_sum_to_one_and_hold_one_even_vote() -> None:
    features, labels = draw(40, 8, 4)
    found = find_neighbours(features[:9], F.normalize(features, dim=1), labels, 10)
    shares = count_votes(found, 10, 0.07, 4).exp()
    torch.testing.assert_close(shares.sum(1), torch.ones(9))
    assert float(shares.min()) >= 0.25 / 11 * (1 - 1e-6)


def test_a_small_temperature_hears_the_nearest_and_a_large_one_all_alike() -> None:
    features, labels = draw(40, 8, 4)
    keys = F.normalize(features, dim=1)
    found = find_neighbours(features + 0.3, keys, labels, 15)
    cold, hot = (count_votes(found, 15, temperature, 4) for temperature in (1e-4, 1e4))
    assert torch.equal(cold.argmax(1), found.labels[:, 0])
    counts = F.one_hot(found.labels, 4).sum(1).float()
    torch.testing.assert_close(hot.exp(), (counts + 0.25) / 16, atol=1e-4, rtol=0)


def test_no_key_is_its_own_neighbour_when_left_out() -> None:
    keys = F.normalize(draw(30, 8, 3)[0], dim=1)
    found = find_neighbours(keys, keys, torch.arange(30), 29, leave_out=True)
    for row, labels in enumerate(found.labels.tolist()):
        assert sorted([*labels, row]) == list(range(30))


def test_queries_in_parts_find_what_they_find_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = draw(50, 8, 3)
    keys = F.normalize(features, dim=1)
    whole = find_neighbours(keys, keys, labels, 7, leave_out=True)
    monkeypatch.setattr("bench.strategies.neighbours._MAX_ELEMENTS", 150)
    parts = find_neighbours(keys, keys, labels, 7, leave_out=True)
    assert torch.equal(parts.labels, whole.labels)
    torch.testing.assert_close(parts.similarity, whole.similarity)


# Scores of an example by all others are those of a fit without it


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_centroid_held_out_is_the_mean_of_the_others(metric: Metric) -> None:
    features, labels = draw(24, 6, 3)
    whole = measure_centroids(features, labels, 3, metric)
    held_out = whole.held_out(features, labels)
    for row in range(24):
        others = torch.arange(24) != row
        exact = features.double()
        means = torch.stack([exact[others & (labels == k)].mean(0) for k in range(3)])
        if metric == "cosine":
            expected = F.cosine_similarity(exact[row : row + 1], means)
        else:
            expected = -(exact[row] - means).square().sum(1) / (2 * whole.unit)
        torch.testing.assert_close(held_out[row], expected)


@pytest.mark.parametrize("shape", [(40, 5), (20, 60)])
@pytest.mark.parametrize("l2", [0.01, 1.0, 30.0])
def test_a_ridge_score_held_out_is_that_of_the_fit_to_the_others(
    shape: tuple[int, int], l2: float
) -> None:
    features, labels = draw(*shape, 3)
    held_out = fit_ridge(features, labels, 3, standardize=False).held_out(l2)
    for row in range(0, shape[0], 7):
        others = torch.arange(shape[0]) != row
        fit = fit_ridge(features[others], labels[others], 3, standardize=False)
        score = fit.scores(fit.project(features[row : row + 1]), l2)
        torch.testing.assert_close(held_out[row], score[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("num_classes", [3, 5])
def test_a_centroid_head_ranks_as_the_scores_do(metric: Metric, num_classes: int) -> None:
    features, labels = draw(24, 6, 3)
    fit = measure_centroids(features, labels, num_classes, metric)
    others = draw(40, 6, 3, seed=5)[0]
    with torch.no_grad():
        logits = fit.make_head(4.0, features)(others)
    scores = 4 * fit.scores(others)
    torch.testing.assert_close(
        torch.softmax(logits[:, :3], 1), torch.softmax(scores[:, :3], 1).float()
    )
    assert not (logits.argmax(1) >= 3).any()


def test_a_single_example_is_its_classes_mean() -> None:
    features, labels = draw(3, 6, 3)
    fit = measure_centroids(features, labels, 3, "euclidean")
    assert fit.scores(features).argmax(1).tolist() == [0, 1, 2]
    torch.testing.assert_close(fit.scores(features).diagonal(), torch.zeros(3, dtype=torch.float64))


def test_ridge_needs_two_classes() -> None:
    with pytest.raises(ProbeError, match="needs examples of two classes or more in train, got 1"):
        fit_ridge(torch.randn(5, 3), torch.ones(5, dtype=torch.int64), 2)


def test_a_constant_feature_has_no_weight_in_ridge() -> None:
    features, labels = draw(30, 6, 3)
    features[:, 2] = 7.0
    assert fit_ridge(features, labels, 3).make_head(1.0, 1.0).weight[:, 2].tolist() == [0, 0, 0]


# Calibration


@pytest.mark.parametrize("size", [0.01, 1.0, 500.0])
def test_the_scale_is_where_the_cross_entropy_is_least(size: float) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 400)
    scores = size * (rng.normal(size=(400, 5)) + 0.8 * np.eye(5)[labels])
    true, chance = torch.from_numpy(labels), 1 / 401

    def loss(log_scale: float) -> float:
        logits = torch.from_numpy(scores * np.exp(log_scale))
        return float(F.cross_entropy(logits, true, label_smoothing=chance))

    start = -np.log(size)
    best = minimize_scalar(loss, bounds=(start - 5, start + 5), method="bounded")
    found = fit_scale(torch.from_numpy(scores), true)
    assert np.log(found) == pytest.approx(best.x, abs=1e-3)


def test_scores_that_are_never_wrong_do_not_become_certain() -> None:
    labels = torch.arange(20) % 2
    scores = F.one_hot(labels, 2).double()
    probability = torch.softmax(scores * fit_scale(scores, labels), 1)
    assert float(probability.max()) == pytest.approx(1 - 1 / 42, abs=1e-4)


def test_scores_that_mislead_keep_their_ranking() -> None:
    labels = torch.arange(20) % 2
    scores = F.one_hot(1 - labels, 2).double()
    scale = fit_scale(scores, labels)
    assert 0 < scale < 0.01


def test_scores_that_say_nothing_stay_as_they_are() -> None:
    assert fit_scale(torch.zeros(6, 3), torch.arange(6) % 3) == 1.0


def test_very_many_scores_are_calibrated_by_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = draw(4000, 3, 3)
    scores = features - 2
    whole = fit_scale(scores, labels)
    # Not a divisor of the classes' period, or the part would hold one class alone.
    monkeypatch.setattr("bench.strategies.calibration._MAX_ELEMENTS", 3000)
    assert fit_scale(scores, labels) == pytest.approx(whole, rel=0.2)
