"""`knn`, `nearest_centroid` and `ridge_probe` beside scikit-learn, on real features."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.preprocessing import StandardScaler

from bench import metrics, registry
from bench.errors import StrategyError
from bench.interfaces import Adapted, Task
from bench.spec import StrategySpec
from bench.strategies.frozen import choose_on_val
from bench.strategies.inputs import load_batch, normalise
from bench.strategies.knn import KnnSpec
from bench.strategies.linear_probe import LinearProbeSpec
from bench.strategies.nearest_centroid import NearestCentroidSpec
from bench.strategies.ridge import fit_ridge
from bench.strategies.ridge_probe import RidgeProbeSpec
from tests.real_features import RealData, accuracy, draw_data
from tests.training import make_split, make_task, small_backbone

NAMES = ["knn", "nearest_centroid", "ridge_probe"]
FIXED = [
    KnnSpec(k=5, temperature=0.07),
    NearestCentroidSpec(metric="cosine"),
    NearestCentroidSpec(metric="euclidean"),
    RidgeProbeSpec(l2=100.0),
]


def adapt(spec: StrategySpec, task: Task) -> Adapted:
    return registry.strategy(spec.name).adapt(task, spec)


def default_spec(name: str) -> StrategySpec:
    return registry.strategy(name).Spec(name=name)


@pytest.fixture(scope="module")
def many() -> RealData:
    return draw_data(val=False)


@pytest.fixture(scope="module")
def few() -> RealData:
    return draw_data(shots=10, val=False)


# Agreement with scikit-learn


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.02), (20, 0.07), (200, 0.2)])
def test_knn_gives_the_probabilities_of_scikit_learn(
    many: RealData, k: int, temperature: float
) -> None:
    def weights(distance: np.ndarray) -> np.ndarray:
        return np.exp((1 - distance) / temperature)

    train, labels = many.arrays(many.task.train)
    test, truth = many.arrays(many.test)
    peer = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=weights)
    expected = peer.fit(train.astype(np.float64), labels).predict_proba(test.astype(np.float64))
    adapted = adapt(KnnSpec(k=k, temperature=temperature), many.task)
    logits = adapted.predict(many.test)
    assert adapted.classifier is not None
    log_shares = logits / adapted.classifier.get_submodule("head").scale
    shares = (log_shares.exp() * (k + 1) - 0.1) / k
    # In float32 two neighbours as good as equally near may change places.
    same = np.isclose(shares.numpy(), expected, atol=1e-3).all(axis=1)
    assert same.mean() >= 0.99
    peers = float((expected.argmax(1) == truth).mean())
    assert abs(accuracy(logits, many.test) - peers) <= 0.003


@pytest.mark.filterwarnings("ignore:self.within_class_std_dev_ has at least 1 zero")
@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")
def test_the_nearest_centroid_is_that_of_scikit_learn(many: RealData, few: RealData) -> None:
    for data in (many, few):
        train, labels = data.arrays(data.task.train)
        test, _ = data.arrays(data.test)
        expected = NearestCentroid().fit(train.astype(np.float64), labels).predict(test)
        logits = adapt(NearestCentroidSpec(metric="euclidean"), data.task).predict(data.test)
        assert (logits.argmax(1).numpy() == expected).mean() >= 0.997


def test_cosine_centroids_are_the_class_means_by_cosine(few: RealData) -> None:
    train, labels = few.arrays(few.task.train)
    means = np.stack([train[labels == label].mean(0) for label in range(10)])
    expected = cosine_similarity(few.arrays(few.test)[0], means)
    adapted = adapt(NearestCentroidSpec(metric="cosine"), few.task)
    assert adapted.classifier is not None
    scale = adapted.classifier.get_submodule("head").scale
    np.testing.assert_allclose(adapted.predict(few.test).numpy() / scale, expected, atol=1e-4)


@pytest.mark.parametrize("l2", [1e-2, 1.0, 100.0, 1e5])
@pytest.mark.parametrize("standardize", [True, False])
def test_ridge_gives_the_decisions_of_scikit_learn(
    many: RealData, few: RealData, l2: float, standardize: bool
) -> None:
    for data, keep in ((many, 1280), (few, 1280), (many, 200)):
        train, labels = data.arrays(data.task.train)
        test = data.arrays(data.test)[0][:, :keep].astype(np.float64)
        train = train[:, :keep].astype(np.float64)
        scaler = StandardScaler(with_std=standardize).fit(train)
        varies = train.std(0) > 1e-6 * np.abs(train.mean(0))
        peer = RidgeClassifier(alpha=l2).fit(scaler.transform(train)[:, varies], labels)
        expected = peer.decision_function(scaler.transform(test)[:, varies])
        known = torch.from_numpy(train), torch.from_numpy(labels)
        fit = fit_ridge(*known, 10, standardize=standardize)
        queries = torch.from_numpy(test)
        scores = fit.scores(fit.project(queries), l2)
        np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-5, atol=1e-6)
        with torch.no_grad():
            logits = fit.make_head(l2, 3.0)(queries.float())
        np.testing.assert_allclose(logits.numpy() / 3, expected, rtol=1e-3, atol=5e-3)


def test_the_ridge_probe_predicts_as_scikit_learn_does(many: RealData) -> None:
    train, labels = many.arrays(many.task.train)
    peer = RidgeClassifier(alpha=10.0).fit(train.astype(np.float64), labels)
    logits = adapt(RidgeProbeSpec(l2=10.0), many.task).predict(many.test)
    expected = peer.predict(many.arrays(many.test)[0].astype(np.float64))
    assert (logits.argmax(1).numpy() == expected).mean() >= 0.997


@pytest.mark.parametrize("shots", [1, 5, 10])
def test_few_shots_agree_with_logistic_regression_on_the_same_draws(shots: int) -> None:
    ours, peers = [], []
    for seed in range(10):
        data = draw_data(seed=seed, shots=shots, val=False)
        train, labels = data.arrays(data.task.train)
        test, truth = data.arrays(data.test)
        assert np.bincount(labels).tolist() == [shots] * 10
        logits = adapt(LinearProbeSpec(l2=1.0), data.task).predict(data.test)
        ours.append(accuracy(logits, data.test))
        scaler = StandardScaler().fit(train)
        peer = LogisticRegression(C=1.0, max_iter=1000).fit(scaler.transform(train), labels)
        peers.append(float((peer.predict(scaler.transform(test)) == truth).mean()))
    assert abs(np.mean(ours) - np.mean(peers)) <= 0.003
    assert len(set(ours)) > 1


def test_ten_draws_encode_no_image_that_was_encoded_before() -> None:
    whole = draw_data()
    assert whole.task.val is not None
    for split in (whole.task.train, whole.task.val, whole.test):
        whole.arrays(split)
    cache = whole.task.runtime.cache
    built = [use for use in cache.ledger.uses() if use.kind == "features" and use.built]
    for seed in range(10, 20):
        for shots in (1, 10):
            data = draw_data(seed=seed, shots=shots, val=False)
            adapt(FIXED[1], data.task).predict(data.test)
    # Nothing built anew, and no other numerics for batches of other sizes.
    assert built == [use for use in cache.ledger.uses() if use.kind == "features" and use.built]
    assert len(built) == 1


# What the choice on val is, and what it is not


@pytest.mark.parametrize("name", NAMES)
def test_the_best_setting_on_val_is_chosen_and_all_are_told(name: str) -> None:
    data = draw_data(train_examples=500)
    adapted = adapt(default_spec(name), data.task)
    selection = adapted.selection
    assert selection is not None and data.task.val is not None
    assert len(selection.points) == len(default_spec(name).grid_points())
    best = max(point.val_accuracy or 0.0 for point in selection.points)
    chosen = selection.points[selection.chosen]
    assert chosen.val_accuracy == best
    logits = adapted.predict(data.task.val)
    assert accuracy(logits, data.task.val) == pytest.approx(best)
    loss = float(F.cross_entropy(logits, torch.from_numpy(data.task.val.labels)))
    assert chosen.val_loss == pytest.approx(loss, rel=1e-3)
    assert accuracy(adapted.predict(data.test), data.test) > 0.6


@pytest.mark.parametrize("name", NAMES)
def test_a_grid_needs_val_and_one_setting_does_not(name: str) -> None:
    strategy, spec = registry.strategy(name), default_spec(name)
    assert strategy.needs_val(spec) and not strategy.trains_backbone
    assert not any(strategy.needs_val(point) for point in spec.grid_points())


@pytest.mark.parametrize(
    ("name", "fields"),
    [("knn", "k and temperature"), ("nearest_centroid", "metric"), ("ridge_probe", "l2")],
)
def test_a_grid_without_val_says_what_to_fix(name: str, fields: str) -> None:
    spec = default_spec(name)
    settings = len(spec.grid_points())
    message = f"{settings} settings and no val split to choose by: give one value of {fields}"
    with pytest.raises(StrategyError, match=f"^{message}$"):
        adapt(spec, make_task(num_val=None))


@pytest.mark.parametrize("name", NAMES)
def test_fields_that_are_not_there_are_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        registry.strategy(name).Spec.model_validate({"name": name, "epochs": 1})


def test_a_choice_at_the_end_of_a_grid_is_an_edge_unless_no_further_value_means_anything() -> None:
    labels = torch.arange(12) % 3
    right = F.one_hot(labels, 3).float()

    def edge(values: list[int], best: int, bounds: dict[str, tuple[float, float]]) -> bool | None:
        settings = [{"k": value, "metric": "cosine"} for value in values]
        choice = choose_on_val(settings, lambda at: right * (at == best), labels, bounds)
        assert choice.index == best and choice.selection is not None
        return choice.selection.at_grid_edge

    assert edge([1, 2, 3], 0, {}) is True and edge([1, 2, 3], 2, {}) is True
    assert edge([1, 2, 3], 1, {}) is False
    assert edge([1, 2, 3], 0, {"k": (1, 9)}) is False and edge([1, 2, 3], 2, {"k": (1, 9)}) is True
    assert edge([1, 2, 30], 2, {"k": (1, 9)}) is False
    assert edge([1, 2], 0, {}) is None


def test_of_equals_the_one_with_less_loss_and_then_the_first_is_chosen() -> None:
    labels = torch.tensor([0, 1, 0, 1])
    sure = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.5, 0.0]])
    unsure = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [5.0, 0.0]])
    scores = [unsure, sure, sure]
    choice = choose_on_val([{"k": k} for k in range(3)], lambda at: scores[at], labels)
    assert choice.index == 1


# Probabilities


@pytest.mark.parametrize("spec", FIXED, ids=lambda spec: str(spec.model_dump()))
@pytest.mark.parametrize("sampling", [{"shots": 1}, {"shots": 5}, {}], ids=str)
def test_probabilities_say_more_than_chance(spec: StrategySpec, sampling: dict[str, int]) -> None:
    data = draw_data(val=False, **sampling)
    logits = adapt(spec, data.task).predict(data.test).numpy()
    scores = metrics.score_logits(logits, data.test.labels, [str(n) for n in range(10)])
    assert scores.nll < np.log(10) - 0.3
    assert scores.ece < 0.25


@pytest.mark.parametrize("spec", FIXED, ids=lambda spec: str(spec.model_dump()))
def test_one_example_of_a_class_is_said_to_leave_the_scale_open(spec: StrategySpec) -> None:
    single = adapt(spec, draw_data(shots=1, val=False).task)
    assert any("not calibrated (a class has one example)" in n for n in single.effective.notes)
    several = adapt(spec, draw_data(shots=5, val=False).task)
    assert not any("not calibrated" in note for note in several.effective.notes)


def test_train_that_says_nothing_of_its_labels_is_said_to_leave_the_scale_open() -> None:
    task = draw_data(shots=2, val=False).task
    notes = adapt(RidgeProbeSpec(l2=1e4), task).effective.notes
    assert any("(an example's label cannot be told from the others of train)" in n for n in notes)


# Odd data


@pytest.mark.parametrize("spec", FIXED, ids=lambda spec: str(spec.model_dump()))
def test_a_class_without_train_examples_is_never_predicted(spec: StrategySpec) -> None:
    task = make_task(num_train=48, num_val=None)
    wider = Task(task.backbone, task.train, None, 5, 0, task.runtime)
    logits = adapt(spec, wider).predict(make_split("test", 60, 3))
    assert logits.shape == (60, 5) and bool(logits.isfinite().all())
    assert not torch.isin(logits.argmax(1), torch.tensor([3, 4])).any()


@pytest.mark.parametrize("spec", FIXED, ids=lambda spec: str(spec.model_dump()))
def test_constant_features_are_noted_and_harm_nothing(spec: StrategySpec) -> None:
    backbone = small_backbone()
    with torch.no_grad():
        backbone.module.last[1].weight[:2] = 0  # type: ignore[index, union-attr]
        backbone.module.last[1].bias.fill_(2)  # type: ignore[index, union-attr]
    adapted = adapt(spec, make_task(backbone, num_val=None))
    assert "2 of 16 features are constant on train" in adapted.effective.notes
    test = make_split("test", 60, 3)
    assert accuracy(adapted.predict(test), test) > 0.5


@pytest.mark.parametrize("spec", FIXED, ids=lambda spec: str(spec.model_dump()))
def test_a_backbone_blind_to_its_input_is_an_error(spec: StrategySpec) -> None:
    backbone = small_backbone()
    with torch.no_grad():
        backbone.module.last[1].weight.zero_()  # type: ignore[index, union-attr]
    with pytest.raises(StrategyError, match="all 16 features are the same"):
        adapt(spec, make_task(backbone, num_val=None))


def test_k_beyond_train_is_all_of_train_and_said() -> None:
    task, test = make_task(num_train=12, num_val=None), make_split("test", 30, 3)
    beyond = adapt(KnnSpec(k=500, temperature=0.07), task)
    all_of_it = adapt(KnnSpec(k=12, temperature=0.07), task)
    assert torch.equal(beyond.predict(test), all_of_it.predict(test))
    assert "k = 500 is all 12 train examples" in beyond.effective.notes
    assert not any("is all" in note for note in all_of_it.effective.notes)


# The adapted model


@pytest.mark.parametrize("spec", FIXED, ids=lambda spec: str(spec.model_dump()))
def test_the_classifier_predicts_as_the_strategy_does(spec: StrategySpec) -> None:
    task, test = make_task(num_train=90, num_val=None), make_split("test", 30, 3)
    adapted = adapt(spec, task)
    images = load_batch(test, slice(None), torch.device("cpu"))
    assert adapted.classifier is not None and not adapted.classifier.training
    with torch.no_grad():
        logits = adapted.classifier(normalise(images, task.backbone.preprocessing))
    torch.testing.assert_close(logits, adapted.predict(test), rtol=1e-3, atol=1e-3)
    assert not adapted.predict(test).requires_grad


@pytest.mark.parametrize(("spec", "fitted"), list(zip(FIXED, [0, 48, 48, 51], strict=True)))
def test_what_is_fitted_is_counted_and_the_backbone_keeps_every_bit(
    spec: StrategySpec, fitted: int
) -> None:
    backbone = small_backbone()
    before = {name: value.clone() for name, value in backbone.module.state_dict().items()}
    adapted = adapt(spec, make_task(backbone, num_val=None))
    assert adapted.num_trainable_parameters == fitted
    assert adapted.num_parameters == backbone.info.num_parameters + fitted
    assert adapted.training_step is None and adapted.curve == ()
    for name, value in backbone.module.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("name", NAMES)
def test_two_fits_predict_identically(name: str) -> None:
    def predict() -> torch.Tensor:
        return adapt(default_spec(name), make_task()).predict(make_split("test", 30, 3))

    assert torch.equal(predict(), predict())


def test_heads_of_other_sizes_do_not_share_a_profile() -> None:
    def kind(num_train: int, make_spec: Callable[[], StrategySpec]) -> str:
        classifier = adapt(make_spec(), make_task(num_train=num_train, num_val=None)).classifier
        return str(getattr(classifier, "kind", ""))

    assert kind(12, lambda: FIXED[0]) == f"NeighbourHead k={FIXED[0].k} [(12, 16), (12,)]"
    assert kind(24, lambda: FIXED[0]) == f"NeighbourHead k={FIXED[0].k} [(24, 16), (24,)]"
    assert kind(12, lambda: FIXED[2]) == "Linear [(3, 16), (3,)]"
