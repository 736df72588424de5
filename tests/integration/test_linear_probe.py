"""`linear_probe` from a task to predictions, and its solution as a head."""

import pytest
import torch
from pydantic import ValidationError

from bench.errors import ProbeError, StrategyError
from bench.registry import strategy
from bench.strategies.features import extract_features
from bench.strategies.inputs import load_batch, normalise
from bench.strategies.linear_probe import LinearProbe, LinearProbeSpec, probe_head
from tests.training import TestRuntime, make_split, make_task, small_backbone


def test_it_is_registered_and_needs_val_for_a_path_only() -> None:
    found = strategy("linear_probe")
    assert isinstance(found, LinearProbe) and not found.trains_backbone
    assert found.needs_val(LinearProbeSpec())
    assert not found.needs_val(LinearProbeSpec(l2=1.0))
    assert not found.needs_val(LinearProbeSpec(l2=(1.0,)))


def test_the_default_path_has_four_values_in_each_of_eleven_decades() -> None:
    path = LinearProbeSpec().l2
    assert isinstance(path, tuple)
    assert len(path) == 45 and path[0] == 1e6 and path[-1] == 1e-5
    assert list(path) == sorted(path, reverse=True)


def test_unknown_fields_and_negative_strengths_are_refused() -> None:
    with pytest.raises(ValidationError):
        LinearProbeSpec.model_validate({"name": "linear_probe", "lr": 1})
    with pytest.raises(ValidationError):
        LinearProbeSpec(l2=(1.0, -1.0))


def test_it_learns_and_reports_the_whole_path() -> None:
    task = make_task(num_train=90, num_val=45)
    adapted = LinearProbe().adapt(task, LinearProbeSpec())
    test = make_split("test", 60, 3)
    accuracy = float((adapted.predict(test).argmax(1).numpy() == test.labels).mean())
    assert accuracy > 0.8
    selection = adapted.selection
    assert selection is not None and selection.converged
    assert [point.setting["l2"] for point in selection.points] == list(LinearProbeSpec().l2)  # type: ignore[arg-type]
    best = max(point.val_accuracy or 0 for point in selection.points)
    assert selection.points[selection.chosen].val_accuracy == best
    assert adapted.num_trainable_parameters == 3 * 16 + 3
    assert adapted.num_parameters == task.backbone.info.num_parameters + 51
    assert adapted.training_step is None and adapted.curve == ()
    assert adapted.effective.forward is not None


def test_the_classifier_predicts_as_the_probe_does() -> None:
    task = make_task(num_train=90, num_val=45)
    adapted = LinearProbe().adapt(task, LinearProbeSpec())
    test = make_split("test", 30, 3)
    images = load_batch(test, slice(None), torch.device("cpu"))
    assert adapted.classifier is not None
    with torch.no_grad():
        logits = adapted.classifier(normalise(images, task.backbone.preprocessing))
    torch.testing.assert_close(logits, adapted.predict(test), rtol=1e-4, atol=1e-4)


def test_the_backbone_keeps_every_bit() -> None:
    backbone = small_backbone()
    before = {name: value.clone() for name, value in backbone.module.state_dict().items()}
    LinearProbe().adapt(make_task(backbone), LinearProbeSpec())
    for name, value in backbone.module.state_dict().items():
        assert torch.equal(value, before[name])


def test_two_runs_predict_identically() -> None:
    test = make_split("test", 30, 3)
    first = LinearProbe().adapt(make_task(), LinearProbeSpec()).predict(test)
    second = LinearProbe().adapt(make_task(), LinearProbeSpec()).predict(test)
    assert torch.equal(first, second)


def test_a_fixed_strength_needs_no_val_and_reports_no_choice() -> None:
    adapted = LinearProbe().adapt(make_task(num_val=None), LinearProbeSpec(l2=1.0))
    assert adapted.selection is None


def test_a_path_without_val_says_what_to_do() -> None:
    with pytest.raises(ProbeError, match=r"no val split to choose by: give one strength, l2: 1\.0"):
        LinearProbe().adapt(make_task(num_val=None), LinearProbeSpec())


def test_constant_features_are_noted() -> None:
    backbone = small_backbone()
    with torch.no_grad():
        backbone.module.last[1].weight[:2] = 0  # type: ignore[index, union-attr]
        backbone.module.last[1].bias.fill_(2)  # type: ignore[index, union-attr]
    adapted = LinearProbe().adapt(make_task(backbone), LinearProbeSpec())
    assert adapted.effective.notes == ("2 of 16 features are constant on train",)


def test_a_backbone_blind_to_its_input_is_an_error() -> None:
    backbone = small_backbone()
    with torch.no_grad():
        backbone.module.last[1].weight.zero_()  # type: ignore[index, union-attr]
    with pytest.raises(StrategyError, match="all 16 features are the same"):
        LinearProbe().adapt(make_task(backbone), LinearProbeSpec())


def test_the_head_of_the_probe_gives_the_probes_logits() -> None:
    task = make_task(num_train=90, num_val=45)
    weight, bias = probe_head(task)
    assert weight.shape == (3, 16) and bias.shape == (3,)
    adapted = LinearProbe().adapt(task, LinearProbeSpec(standardize=False))
    features = extract_features(task.backbone, task.train, task.runtime)
    torch.testing.assert_close(features @ weight.T + bias, adapted.predict(task.train))


def test_the_head_puts_no_great_weight_on_a_feature_that_hardly_varies() -> None:
    backbone = small_backbone()
    with torch.no_grad():
        backbone.module.last[1].weight[0] *= 1e-4  # type: ignore[index, union-attr]
    weight, _ = probe_head(make_task(backbone, num_train=90, num_val=45))
    assert weight[:, 0].abs().max() < weight[:, 1:].abs().max()


def test_the_head_without_val_is_that_of_strength_one() -> None:
    task = make_task(num_val=None, runtime=TestRuntime())
    weight, bias = probe_head(task)
    adapted = LinearProbe().adapt(task, LinearProbeSpec(l2=1.0, standardize=False))
    features = extract_features(task.backbone, task.train, task.runtime)
    torch.testing.assert_close(features @ weight.T + bias, adapted.predict(task.train))
