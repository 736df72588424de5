"""The probe's solver against scikit-learn's optimum, and the choice on val."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from bench.errors import ProbeError
from bench.strategies import logistic, newton
from bench.strategies.imbalance import balanced_weights
from bench.strategies.logistic import solve_path
from bench.strategies.probe import LabelledFeatures, fit_probe

PATH = tuple(10.0**power for power in range(6, -6, -1))


def draw(num_examples: int, dim: int, num_classes: int, seed: int = 0) -> LabelledFeatures:
    """Return correlated features of overlapping classes; every class occurs."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(dim, dim)) / math.sqrt(dim)
    centres = np.random.default_rng(98).normal(size=(num_classes, dim))
    labels = np.arange(num_examples) % num_classes
    rng.shuffle(labels)
    noise = rng.normal(size=(num_examples, dim)) @ (mixing + 0.3)
    values = 0.5 * centres[labels] + noise + 3.0
    return LabelledFeatures(torch.from_numpy(values).float(), torch.from_numpy(labels))


def standardised(features: Tensor) -> Tensor:
    exact = features.double()
    return (exact - exact.mean(0)) / exact.std(0, correction=0)


def objective(data: LabelledFeatures, weights: Tensor, bias: Tensor, c: float) -> float:
    logits = standardised(data.features) @ weights.double().T + bias.double()
    loss = torch.nn.functional.cross_entropy(logits, data.labels, reduction="sum")
    return float(c * loss + weights.double().square().sum() / 2)


def duality_gap(data: LabelledFeatures, weights: Tensor, bias: Tensor, c: float) -> float:
    """Return a bound on the distance to the minimum: the objective is 1-strongly convex in W."""
    scaled = standardised(data.features)
    slopes = torch.softmax(scaled @ weights.double().T + bias.double(), dim=1)
    slopes -= torch.nn.functional.one_hot(data.labels, len(bias))
    return float((weights.double() + c * slopes.T @ scaled).square().sum() / 2)


def minimum(data: LabelledFeatures, c: float) -> float:
    """Return the least objective, from scikit-learn run far beyond its default tolerance."""
    model = LogisticRegression(C=c, tol=1e-10, max_iter=100_000)
    model.fit(standardised(data.features).numpy(), data.labels.numpy())
    weights, bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
    return objective(data, weights, bias, c)


@pytest.mark.parametrize(
    ("num_examples", "dim", "num_classes"),
    [(300, 20, 5), (60, 100, 3), (400, 12, 30)],
    ids=["plain", "fewer examples than features", "many classes"],
)
def test_every_strength_reaches_scikit_learns_optimum(
    num_examples: int, dim: int, num_classes: int
) -> None:
    data = draw(num_examples, dim, num_classes)
    strengths = [1e-6, 1e-4, 1e-2, 1.0, 100.0]
    solutions = solve_path(standardised(data.features).float(), data.labels, num_classes, strengths)
    assert solutions.converged.all()
    for row, c in enumerate(strengths):
        got = objective(data, solutions.weights[row], solutions.bias[row], c)
        assert got == pytest.approx(minimum(data, c), rel=1e-4)


def test_two_classes_reach_the_optimum() -> None:
    data = draw(200, 10, 2)
    solutions = solve_path(standardised(data.features).float(), data.labels, 2, [0.01, 1.0])
    for row, c in enumerate([0.01, 1.0]):
        got = objective(data, solutions.weights[row], solutions.bias[row], c)
        # Weights of the two classes are opposite, so half of scikit-learn's penalty: C counts half.
        model = LogisticRegression(C=2 * c, tol=1e-10, max_iter=100_000)
        model.fit(standardised(data.features).numpy(), data.labels.numpy())
        half, shift = torch.from_numpy(model.coef_) / 2, torch.from_numpy(model.intercept_) / 2
        least = objective(data, torch.cat([-half, half]), torch.cat([-shift, shift]), c)
        assert got == pytest.approx(least, rel=1e-4)


def test_separable_classes_and_a_vanishing_penalty_converge_in_float32() -> None:
    data = draw(80, 120, 4)
    strengths = [float(10 ** (power / 2)) for power in range(-12, 11)]
    single = solve_path(standardised(data.features).float(), data.labels, 4, strengths)
    double = solve_path(standardised(data.features), data.labels, 4, strengths)
    assert single.converged.all() and double.converged.all()
    for row, c in enumerate(strengths):
        exact = objective(data, double.weights[row], double.bias[row], c)
        got = objective(data, single.weights[row], single.bias[row], c)
        assert abs(got - exact) <= 1e-4 * exact


def test_the_duality_gap_certifies_a_tight_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newton, "_TOLERANCE", 1e-9)
    monkeypatch.setattr(newton, "_CG_PROGRESS", 0.01)
    data = draw(120, 30, 4)
    for c in (0.01, 1.0, 100.0):
        solution = solve_path(standardised(data.features), data.labels, 4, [c])
        value = objective(data, solution.weights[0], solution.bias[0], c)
        assert duality_gap(data, solution.weights[0], solution.bias[0], c) < 1e-6 * value


def test_one_strength_alone_equals_the_same_strength_in_a_path() -> None:
    data = draw(150, 15, 3)
    scaled = standardised(data.features).float()
    path = solve_path(scaled, data.labels, 3, [0.01, 0.1, 1.0, 10.0, 100.0])
    alone = solve_path(scaled, data.labels, 3, [10.0])
    first = objective(data, path.weights[3], path.bias[3], 10.0)
    assert first == pytest.approx(objective(data, alone.weights[0], alone.bias[0], 10.0), rel=1e-4)


def test_what_is_not_solved_is_said_to_be_not_converged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic, "_MAX_NEWTON_STEPS", 1)
    data = draw(200, 10, 4)
    path = fit_probe(data, l2_path=(1e-3,), num_classes=4)
    assert not path.converged
    assert path.notes == ("probe not converged at l2 = 0.001",)


def test_small_batches_of_strengths_give_the_same_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    data = draw(150, 15, 3)
    scaled = standardised(data.features).float()
    together = solve_path(scaled, data.labels, 3, [0.01, 0.1, 1.0])
    monkeypatch.setattr(logistic, "_BATCH_ELEMENTS", 1)
    apart = solve_path(scaled, data.labels, 3, [0.01, 0.1, 1.0])
    for row, c in enumerate([0.01, 0.1, 1.0]):
        value = objective(data, together.weights[row], together.bias[row], c)
        other = objective(data, apart.weights[row], apart.bias[row], c)
        assert value == pytest.approx(other, rel=1e-4)


def test_strengths_that_coincide_do_no_harm() -> None:
    train, val = draw(150, 20, 3), draw(90, 20, 3, seed=1)
    values = (10.0, 1.0, 1.0, 1.0 + 1e-15, 1.0 + 1e-9, 0.1)
    path = fit_probe(train, val, l2_path=values, num_classes=3)
    assert path.converged and path.weight.isfinite().all()
    assert [point.l2 for point in path.points] == list(values)
    assert path.points[1] == path.points[2]


def test_two_fits_are_identical() -> None:
    train, val = draw(200, 20, 4), draw(80, 20, 4, seed=1)
    first = fit_probe(train, val, l2_path=PATH, num_classes=4)
    second = fit_probe(train, val, l2_path=PATH, num_classes=4)
    assert torch.equal(first.weight, second.weight) and torch.equal(first.bias, second.bias)
    assert first.points == second.points


def test_the_best_on_val_is_chosen_and_scored_as_its_own_weights_score() -> None:
    train, val = draw(200, 40, 5), draw(100, 40, 5, seed=1)
    path = fit_probe(train, val, l2_path=PATH, num_classes=5)
    logits = val.features @ path.weight.T + path.bias
    accuracy = float((logits.argmax(1) == val.labels).double().mean())
    loss = float(torch.nn.functional.cross_entropy(logits, val.labels))
    chosen = path.points[path.chosen]
    assert chosen.val_accuracy == accuracy
    assert chosen.val_loss == pytest.approx(loss, rel=1e-3)
    assert accuracy == max(point.val_accuracy or 0 for point in path.points)
    equals = [point for point in path.points if point.val_accuracy == accuracy]
    assert chosen.val_loss == min(point.val_loss or 0 for point in equals)
    assert [point.l2 for point in path.points] == list(PATH)


def test_the_order_of_the_path_does_not_matter() -> None:
    train, val = draw(150, 20, 3), draw(90, 20, 3, seed=1)
    down = fit_probe(train, val, l2_path=PATH, num_classes=3)
    up = fit_probe(train, val, l2_path=PATH[::-1], num_classes=3)
    assert up.points == down.points[::-1]
    assert up.points[up.chosen] == down.points[down.chosen]
    assert torch.equal(up.weight, down.weight)


def test_an_edge_of_the_path_is_seen_from_three_strengths_on() -> None:
    train, val = draw(150, 20, 3), draw(90, 20, 3, seed=1)
    best = fit_probe(train, val, l2_path=PATH, num_classes=3)
    assert best.at_grid_edge is False
    poor = fit_probe(train, val, l2_path=(1e6, 3e6, 1e7), num_classes=3)
    assert poor.at_grid_edge is True
    assert fit_probe(train, val, l2_path=(1e6, 1e7), num_classes=3).at_grid_edge is None


def test_of_equal_strengths_the_strongest_is_kept() -> None:
    features = torch.tensor([[-1.0], [1.0], [-1.0], [1.0]])
    train = LabelledFeatures(features, torch.tensor([0, 1, 0, 1]))
    val = LabelledFeatures(torch.zeros(2, 1), torch.tensor([0, 0]))
    path = fit_probe(train, val, l2_path=(1e5, 1e6), num_classes=2)
    accuracies = {point.val_accuracy for point in path.points}
    losses = {point.val_loss for point in path.points}
    assert len(accuracies) == len(losses) == 1
    assert path.points[path.chosen].l2 == 1e6


def test_standardising_makes_the_probe_blind_to_the_scale_of_features() -> None:
    train, val = draw(150, 20, 3), draw(90, 20, 3, seed=1)
    scale = 10.0 ** torch.linspace(-3, 3, 20)

    def rescale(data: LabelledFeatures) -> LabelledFeatures:
        return LabelledFeatures(data.features * scale + 5 * scale, data.labels)

    plain = fit_probe(train, val, l2_path=(1.0,), num_classes=3)
    scaled = fit_probe(rescale(train), rescale(val), l2_path=(1.0,), num_classes=3)
    torch.testing.assert_close(scaled.weight * scale, plain.weight, rtol=1e-2, atol=1e-3)
    raw = fit_probe(rescale(train), rescale(val), l2_path=(1.0,), num_classes=3, standardize=False)
    assert not torch.allclose(raw.weight * scale, plain.weight, rtol=0.1, atol=0.01)


def test_constant_and_duplicate_features_do_no_harm() -> None:
    train = draw(150, 10, 3)
    constant = torch.full((150, 2), 7.7)
    wide = torch.cat([train.features, train.features, constant], dim=1)
    path = fit_probe(LabelledFeatures(wide, train.labels), l2_path=(1.0,), num_classes=3)
    assert path.converged
    assert (path.weight[:, -2:] == 0).all()
    torch.testing.assert_close(path.weight[:, :10], path.weight[:, 10:20], rtol=1e-3, atol=1e-4)


def test_a_class_without_train_examples_is_never_predicted() -> None:
    data = draw(150, 10, 3)
    moved = LabelledFeatures(data.features, torch.tensor([0, 2, 3])[data.labels])
    path = fit_probe(moved, l2_path=(1.0,), num_classes=5)
    logits = data.features @ path.weight.T + path.bias
    assert logits.isfinite().all()
    assert set(logits.argmax(1).tolist()) == {0, 2, 3}
    assert path.notes == ("2 classes have no train example: the probe never predicts them",)


def test_a_val_class_that_train_lacks_counts_as_wrong() -> None:
    train = draw(90, 10, 2)
    val = LabelledFeatures(train.features[:4], torch.full((4,), 2))
    path = fit_probe(train, val, l2_path=(1.0,), num_classes=3)
    assert path.points[0].val_accuracy == 0.0
    assert path.points[0].val_loss is None


def test_a_path_without_val_is_refused() -> None:
    with pytest.raises(ProbeError, match=r"12 L2 strengths and no val split .* l2: 1\.0"):
        fit_probe(draw(30, 4, 3), l2_path=PATH, num_classes=3)


@pytest.mark.parametrize("path", [(0.0,), (-1.0,), (math.inf,), (math.nan,), ()])
def test_strengths_that_are_not_positive_are_refused(path: tuple[float, ...]) -> None:
    with pytest.raises(ProbeError, match="must be positive and finite, got"):
        fit_probe(draw(30, 4, 3), l2_path=path, num_classes=3)


def test_features_that_are_not_finite_are_refused() -> None:
    data = draw(30, 4, 3)
    broken = LabelledFeatures(data.features.clone(), data.labels)
    broken.features[3, 1] = math.nan
    with pytest.raises(ProbeError, match="train features of 1 of 30 examples are not finite"):
        fit_probe(broken, l2_path=(1.0,), num_classes=3)
    with pytest.raises(ProbeError, match="val features of 1 of 30 examples are not finite"):
        fit_probe(data, broken, l2_path=(1.0,), num_classes=3)


def test_shapes_and_labels_that_do_not_fit_are_refused() -> None:
    data = draw(30, 4, 3)
    with pytest.raises(ProbeError, match=r"val features have shape \(30, 5\), expected \(30, 4\)"):
        fit_probe(data, draw(30, 5, 3), l2_path=(1.0,), num_classes=3)
    with pytest.raises(ProbeError, match="train labels run from 0 to 2, but classes are 0 to 1"):
        fit_probe(data, l2_path=(1.0,), num_classes=2)
    empty = LabelledFeatures(data.features[:0], data.labels[:0])
    with pytest.raises(ProbeError, match="at least one example"):
        fit_probe(empty, l2_path=(1.0,), num_classes=3)


def test_a_single_class_is_refused() -> None:
    data = LabelledFeatures(torch.randn(5, 3), torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ProbeError, match="two classes or more in train, got 1"):
        fit_probe(data, l2_path=(1.0,), num_classes=3)


# Weights of examples


def draw_imbalanced(seed: int = 0) -> tuple[LabelledFeatures, np.ndarray]:
    """Return data of which one class has 200 examples, one 60 and one 15, and class weights."""
    data = draw(900, 12, 3, seed)
    kept = torch.cat([(data.labels == k).nonzero()[:count, 0] for k, count in enumerate(COUNTS)])
    labels = data.labels[kept]
    by_class = balanced_weights(labels.numpy(), 3)
    weights = torch.from_numpy(by_class)[labels]
    return LabelledFeatures(data.features[kept], labels, weights), by_class


COUNTS = (200, 60, 15)


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    data, by_class = draw_imbalanced()
    labels = data.labels.numpy()
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(by_class, expected)
    assert float(data.weights.mean()) == pytest.approx(1.0)


def test_a_class_without_examples_weighs_one_and_changes_no_other() -> None:
    weights = balanced_weights(np.array([0, 0, 0, 2]), 4)
    np.testing.assert_allclose(weights, [2 / 3, 1.0, 2.0, 1.0])


@pytest.mark.parametrize("l2", [100.0, 1.0])
def test_a_weighted_probe_is_scikit_learns_with_balanced_class_weights(l2: float) -> None:
    data, _ = draw_imbalanced()
    path = fit_probe(data, l2_path=(l2,), num_classes=3)
    assert path.converged
    model = LogisticRegression(C=1 / l2, class_weight="balanced", tol=1e-10, max_iter=100_000)
    scaled = standardised(data.features).numpy()
    model.fit(scaled, data.labels.numpy())
    logits = data.features.double() @ path.weight.double().T + path.bias.double()
    np.testing.assert_allclose(
        torch.softmax(logits, 1).numpy(), model.predict_proba(scaled), atol=2e-3
    )


@pytest.mark.parametrize("c", [1e-4, 1e-2, 1.0, 100.0])
def test_every_weighted_strength_reaches_scikit_learns_optimum(c: float) -> None:
    data, _ = draw_imbalanced(1)
    scaled, weights = standardised(data.features), data.weights
    solutions = solve_path(scaled.float(), data.labels, 3, [1e-5, 1e-4, 1e-2, 1.0, 100.0], weights)
    row = [1e-5, 1e-4, 1e-2, 1.0, 100.0].index(c)
    model = LogisticRegression(C=c, tol=1e-10, max_iter=100_000)
    model.fit(scaled.numpy(), data.labels.numpy(), sample_weight=weights.numpy())

    def weighted_objective(coefficients: Tensor, bias: Tensor) -> float:
        logits = scaled @ coefficients.double().T + bias.double()
        losses = torch.nn.functional.cross_entropy(logits, data.labels, reduction="none")
        return float(c * (weights * losses).sum() + coefficients.double().square().sum() / 2)

    best = weighted_objective(torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_))
    got = weighted_objective(solutions.weights[row], solutions.bias[row])
    assert got == pytest.approx(best, rel=1e-4)
    assert bool(solutions.converged[row])


def test_an_example_of_weight_two_counts_as_two() -> None:
    data = draw(80, 6, 3)
    twice = torch.ones(80)
    twice[:20] = 2
    repeated = LabelledFeatures(
        torch.cat([data.features, data.features[:20]]), torch.cat([data.labels, data.labels[:20]])
    )
    centred = data.features - repeated.features.mean(0)
    weighted = solve_path(centred, data.labels, 3, [0.1], twice)
    plain = solve_path(torch.cat([centred, centred[:20]]), repeated.labels, 3, [0.1])
    torch.testing.assert_close(weighted.weights, plain.weights, atol=2e-3, rtol=1e-2)
