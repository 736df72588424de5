"""Class weights in the strategies that take steps and in the linear probe, from suite to scores."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from sklearn.metrics import balanced_accuracy_score

from bench import registry
from bench.interfaces import Split, Task
from bench.record import NumericsPlan
from bench.strategies.freeze import Trained
from bench.strategies.full import FullSpec
from bench.strategies.head import Classifier, make_head
from bench.strategies.imbalance import balanced_weights
from bench.strategies.linear_probe import LinearProbeSpec, probe_head
from bench.strategies.loop import TrainStep
from bench.strategies.rule import StepRule
from tests.training import make_split, make_task, small_backbone

CPU = torch.device("cpu")
WEIGHTS = (0.4, 1.0, 4.0)
COUNTS = (80, 12, 6)


def take(split: Split, counts: tuple[int, ...]) -> Split:
    """Return the first so many examples of each class of a split."""
    kept = [np.flatnonzero(split.labels == k)[:count] for k, count in enumerate(counts)]
    rows = np.concatenate(kept)
    ids = tuple(split.ids[row] for row in rows)
    return Split(split.name, ids, split.labels[rows], split.pool, split.rows[rows], str(counts))


def imbalanced_task() -> Task:
    task = make_task(num_val=None)
    return replace(task, train=take(make_split("train", 240, 1), COUNTS))


def make_step(
    *, micro_batch: int | None = None, smoothing: float = 0.0
) -> tuple[Trained, TrainStep]:
    classifier = Classifier(small_backbone().module, make_head(16, 3))
    trained = Trained(classifier, rule=StepRule(class_weights=WEIGHTS))
    trained.require_gradients()
    # In eval mode batch norms do not mix examples, so that parts of a batch add up to the whole.
    trained.classifier.eval()
    setting = FullSpec(optimizer="sgd", momentum=0.0, clip_norm=None, label_smoothing=smoothing)
    return trained, TrainStep(trained, setting, NumericsPlan(), CPU, micro_batch)


def draw_batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(10, 3, 16, 16, generator=generator)
    return inputs, torch.tensor([0, 0, 0, 0, 0, 1, 1, 2, 0, 1])


def test_the_loss_of_a_step_is_the_mean_of_weighted_losses():
    inputs, labels = draw_batch()
    trained, step = make_step()
    logits = trained.classifier(inputs).detach()
    losses = F.cross_entropy(logits, labels, reduction="none")
    expected = float((torch.tensor(WEIGHTS)[labels] * losses).mean())
    assert float(step(inputs, labels)) == pytest.approx(expected, rel=1e-5)


def test_mixed_labels_are_weighted_by_their_shares():
    inputs, labels = draw_batch()
    shares = 0.7 * F.one_hot(labels, 3).float() + 0.3 * F.one_hot(labels.flip(0), 3).float()
    trained, step = make_step()
    log_probability = trained.classifier(inputs).detach().log_softmax(1)
    expected = float(-(shares * torch.tensor(WEIGHTS) * log_probability).sum(1).mean())
    assert float(step(inputs, shares)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_accumulated_parts_give_the_gradient_of_the_whole_batch(smoothing):
    inputs, labels = draw_batch()
    whole, step = make_step(smoothing=smoothing)
    parts, accumulated = make_step(micro_batch=3, smoothing=smoothing)
    losses = float(step(inputs, labels)), float(accumulated(inputs, labels))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["full", "partial", "layer_decay", "linear_probe"])
def test_balanced_weights_raise_the_balanced_accuracy_on_imbalanced_data(name):
    fields = (
        {"l2": 1000.0}
        if name == "linear_probe"
        else {"epochs": 6, "learning_rate": 0.01, "batch_size": 16}
    )
    test = make_split("test", 120, 5)
    scores = {}
    for class_weights in ("none", "balanced"):
        spec = registry.strategy(name).Spec(name=name, class_weights=class_weights, **fields)
        adapted = registry.strategy(name).adapt(imbalanced_task(), spec)
        predicted = adapted.predict(test).argmax(1).numpy()
        scores[class_weights] = balanced_accuracy_score(test.labels, predicted)
    assert scores["balanced"] > scores["none"] + 0.05


def test_a_head_that_starts_as_the_probe_starts_as_the_weighted_one():
    task = imbalanced_task()
    spec = LinearProbeSpec(l2=1.0, standardize=False, class_weights="balanced")
    probe = registry.strategy("linear_probe").adapt(task, spec)
    weight, bias = probe_head(task, "balanced")
    torch.testing.assert_close(probe.classifier.head.weight.detach(), weight)
    torch.testing.assert_close(probe.classifier.head.bias.detach(), bias)
    assert not torch.allclose(weight, probe_head(task)[0], atol=1e-3)


def test_weights_come_from_train_as_it_is_trained_on():
    labels = imbalanced_task().train.labels
    np.testing.assert_allclose(balanced_weights(labels, 3), [98 / (3 * count) for count in COUNTS])


@pytest.mark.parametrize("model", [FullSpec, LinearProbeSpec])
def test_weights_that_are_off_leave_no_trace_in_a_spec(model):
    name = "full" if model is FullSpec else "linear_probe"
    assert "class_weights" not in model(name=name).model_dump()
    assert "class_weights" not in model(name=name, class_weights="none").model_dump(mode="json")
    assert model(name=name, class_weights="balanced").model_dump()["class_weights"] == "balanced"
    with pytest.raises(ValidationError, match="class_weights"):
        model(name=name, class_weights="heavy")
