import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.errors import StrategyError
from bench.registry import strategy
from bench.strategies.full import Full, FullSpec
from bench.strategies.linear_probe import probe_head
from tests.training import make_split, make_task, small_backbone


def test_full_is_registered_and_says_what_it_is() -> None:
    found = strategy("full")
    assert isinstance(found, Full) and found.trains_backbone
    assert found.needs_val(FullSpec()) and not found.needs_val(FullSpec(epochs=1))
    assert found.needs_val(FullSpec(epochs=1, learning_rate=(0.1, 0.2)))


def test_full_learns_and_reports_what_was_in_force() -> None:
    task = make_task(num_train=96)
    adapted = Full().adapt(task, FullSpec(epochs=8, batch_size=16, learning_rate=0.02))
    test = make_split("test", 60, 9)
    logits = adapted.predict(test)
    accuracy = (logits.argmax(1).numpy() == test.labels).mean()
    assert logits.shape == (60, 3) and logits.dtype == torch.float32
    assert accuracy > 0.9
    effective = adapted.effective
    assert (effective.requested_batch_size, effective.batch_size) == (16, 16)
    assert effective.forward is not None and effective.train is not None
    assert adapted.num_parameters == adapted.num_trainable_parameters
    assert adapted.num_parameters == task.backbone.info.num_parameters + 16 * 3 + 3
    assert adapted.selection is not None and len(adapted.selection.points) == 1
    assert adapted.selection.at_grid_edge is None
    assert [point.epoch for point in adapted.curve] == list(range(1, 9))


def test_without_val_there_is_no_selection_and_a_note() -> None:
    adapted = Full().adapt(make_task(num_val=None), FullSpec(epochs=2, batch_size=16))
    assert adapted.selection is None
    assert adapted.effective.notes == (
        "no val split: every epoch was trained and the last one kept",
    )


def test_a_batch_larger_than_train_is_recorded_as_it_was() -> None:
    adapted = Full().adapt(make_task(num_train=10), FullSpec(epochs=1, batch_size=64))
    assert adapted.effective.requested_batch_size == 64
    assert adapted.effective.batch_size == adapted.effective.effective_batch_size == 10
    assert adapted.effective.notes == ("batch size 10 in place of 64: train has no more examples",)


def test_the_training_step_moves_every_weight_and_computes_gradients() -> None:
    adapted = Full().adapt(make_task(), FullSpec(epochs=1, batch_size=16, learning_rate=0.01))
    assert adapted.classifier is not None and adapted.training_step is not None
    before = copy.deepcopy(adapted.classifier.state_dict())
    inputs, labels = torch.randn(16, 3, 16, 16), torch.arange(16) % 3
    step = adapted.training_step()
    with FlopCounterMode(display=False) as counted:
        assert step(inputs, labels) is None
    with FlopCounterMode(display=False) as forward:
        adapted.classifier(inputs)
    assert counted.get_total_flops() > 2 * forward.get_total_flops()
    after = adapted.classifier.state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_the_head_starts_from_the_probe_on_request() -> None:
    weight, bias = probe_head(make_task())
    spec = FullSpec(epochs=1, batch_size=16, learning_rate=1e-9, head_init="probe")
    adapted = Full().adapt(make_task(), spec)
    head = adapted.classifier.head  # type: ignore[union-attr]
    assert weight.abs().max() > 0.01
    assert torch.allclose(head.weight, weight, atol=1e-6)
    assert torch.allclose(head.bias, bias, atol=1e-6)


def test_the_head_starts_from_zero_otherwise() -> None:
    spec = FullSpec(epochs=1, batch_size=16, learning_rate=1e-9)
    adapted = Full().adapt(make_task(), spec)
    assert adapted.classifier.head.weight.abs().max() < 1e-6  # type: ignore[union-attr]


def test_a_backbone_with_nothing_learned_is_refused() -> None:
    with pytest.raises(StrategyError) as caught:
        Full().adapt(make_task(small_backbone(trainable=False)), FullSpec())
    assert str(caught.value) == (
        "full: test/net has nothing learned and nothing to train. Use linear_probe with it, or "
        "leave the pair out with exclude."
    )
