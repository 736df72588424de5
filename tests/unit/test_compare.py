import pytest

from bench import compare_records
from bench.compare import Difference, explain_keys
from bench.record import Status
from bench.tables.detail import explanation
from tests.records import make_record


def test_equal_keys_on_one_device_are_compared_in_quality_and_cost():
    baseline = make_record(strategy="full", accuracy=0.9, rate=500.0)
    candidate = make_record(strategy="full", accuracy=0.88, rate=400.0)
    result = compare_records(baseline, candidate)
    assert result.test_accuracy_difference == pytest.approx(-0.02)
    assert result.infer_rate_ratio == pytest.approx(0.8)
    assert result.train_rate_ratio == pytest.approx(0.8)
    assert result.reasons == ()


def test_different_keys_are_not_compared():
    result = compare_records(make_record(), make_record(seed=1))
    assert not result.same_key
    assert result.test_accuracy_difference is None
    assert result.infer_rate_ratio is None
    assert "their keys differ" in result.reasons[0]


def test_records_without_a_key_are_never_equal():
    record = make_record().model_copy(update={"key": None})
    assert not compare_records(record, record).same_key


def test_costs_on_other_hardware_are_not_compared_but_quality_is():
    baseline = make_record()
    moved = make_record(accuracy=0.91, device_class="cuda:Synthetic GPU")
    moved = moved.model_copy(update={"key": baseline.key})
    result = compare_records(baseline, moved)
    assert result.test_accuracy_difference == pytest.approx(0.01)
    assert result.infer_rate_ratio is None
    assert "cpu:Synthetic CPU:2 and cuda:Synthetic GPU" in result.reasons[0]


def test_rates_at_other_batch_sizes_are_not_compared():
    baseline = make_record()
    profile = baseline.infer_profile.model_copy(update={"batch_size": 32})
    other = baseline.model_copy(update={"infer_profile": profile})
    assert compare_records(baseline, other).infer_rate_ratio is None


def test_a_failed_record_has_no_difference_and_a_reason():
    failed = make_record(status=Status.OOM)
    result = compare_records(make_record(), failed)
    assert result.test_accuracy_difference is None
    assert result.reasons == ("the candidate is oom, so it has no scores",)


def test_the_parts_of_two_keys_that_differ_are_named():
    first = make_record(strategy="partial", fields={"epochs": 3, "learning_rate": [1e-3, 1e-2]})
    second = make_record(backbone="plain/pixels", strategy="partial", fields={"epochs": 5})
    second = second.model_copy(update={"key_parts": second.key_parts | {"numerics": "fp32"}})
    differences = explain_keys(first, second)
    names = [difference.name for difference in differences]
    assert names == [
        "key: weights",
        "key: numerics",
        "cell: backbone.name",
        "cell: strategy.epochs",
        "cell: strategy.learning_rate",
    ]
    assert differences[1] == Difference("key: numerics", "auto", "fp32")
    assert "cell: strategy.learning_rate\n  A  [0.001, 0.01]\n  B  (absent)" in explanation(
        differences
    )


def test_equal_keys_have_nothing_to_explain():
    assert explain_keys(make_record(), make_record(accuracy=0.1)) == []
    assert explanation([]).startswith("nothing differs")
