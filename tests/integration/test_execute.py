"""A cell becomes a record: real backbones, data and strategies, without a child process."""

import gc
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import measure, registry, summary
from bench.errors import DatasetError, DivergedError
from bench.execute import classify_failure, execute
from bench.interfaces import Refit, Task
from bench.metrics import unpack_predictions
from bench.record import Progress, Recalled, Record, Status
from bench.spec import BackboneSpec, Cell, DatasetSpec, Job, Limits, Numerics
from bench.strategies.feed import InputFeed
from bench.strategies.linear_probe import LinearProbe

LIMITS = Limits(profile_time="0.2s")


def make_cell(name: str = "linear_probe", **changes: object) -> Cell:
    spec = registry.strategy(name).Spec
    settings = {"epochs": 2} if name != "linear_probe" else {}
    cell = Cell(
        suite="tests",
        backbone=BackboneSpec(name="plain/pixels"),
        dataset=DatasetSpec(name="digits", train_examples=200),
        strategy=spec(name=name, **settings),
        image_size=16,
    )
    return cell.model_copy(update=changes)


def run(cell: Cell, cache: Path, **changes: object) -> Record | Recalled:
    job = Job(
        cell=cell,
        run_id=1,
        run_scope="scope",
        request_key="request",
        cache_dir=str(cache),
        limits=LIMITS,
    )
    return execute(job.model_copy(update=changes), lambda progress: None)


def record_of(cell: Cell, cache: Path, **changes: object) -> Record:
    result = run(cell, cache, **changes)
    assert isinstance(result, Record)
    return result


RANDOM_RESNET = BackboneSpec(name="timm/test_resnet", weights="random")


def test_a_probe_of_pixels_is_a_whole_record(tmp_path: Path) -> None:
    record = record_of(make_cell(), tmp_path)
    assert record.status is Status.OK, record.failure
    assert record.test is not None and record.test.accuracy > 0.8
    assert record.val is not None and record.selection is not None
    assert record.data is not None and record.data.splits["train"].num_examples == 160
    assert record.infer_profile is not None and record.infer_profile.examples_per_second > 0
    assert record.infer_profile.end_to_end is not None
    assert record.train_profile is None, "a probe takes no steps"
    assert record.environment is not None and record.host_peak_bytes is not None
    assert {"load_backbone", "load_data", "evaluate", "profile"} <= set(record.seconds)
    assert sum(record.seconds.values()) <= record.wall_seconds


def test_a_trained_cell_has_a_curve_and_the_profile_of_its_step(tmp_path: Path) -> None:
    record = record_of(make_cell("full", backbone=RANDOM_RESNET, image_size=32), tmp_path)
    assert record.status is Status.OK, record.failure
    assert len(record.curve) == 2
    assert record.train_profile is not None and record.train_profile.batch_size == 64
    assert record.num_trainable_parameters == record.num_parameters


def test_the_same_cell_twice_gives_the_same_predictions_and_key(tmp_path: Path) -> None:
    # Pinned: two caches measure two plans, which a near-tie can tell apart.
    cell = make_cell("full", backbone=RANDOM_RESNET, image_size=32, numerics=Numerics.FP32)
    first, second = (record_of(cell, tmp_path / name) for name in ("a", "b"))
    assert first.key == second.key
    assert len(first.predictions) == 2
    for one, other in zip(first.predictions, second.predictions, strict=True):
        assert one == other


def test_predictions_give_the_accuracy_of_the_record(tmp_path: Path) -> None:
    record = record_of(make_cell(), tmp_path)
    test = unpack_predictions(record.predictions[-1])
    assert record.test is not None
    assert (test.predicted == test.labels).mean() == pytest.approx(record.test.accuracy)


def test_a_key_the_run_holds_ends_the_cell_before_any_work(tmp_path: Path) -> None:
    key = record_of(make_cell(), tmp_path).key
    assert key is not None
    recalled = run(make_cell(), tmp_path, known_keys=frozenset({key}), request_key="other")
    assert recalled == Recalled(request_key="other", key=key)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"seed": 1}, "seed"),
        ({"image_size": 20}, "preprocessing"),
        ({"dataset": DatasetSpec(name="digits", train_examples=300)}, "splits"),
        ({"split_seed": 1}, "splits"),
    ],
)
def test_what_changes_the_numbers_changes_the_key(
    tmp_path: Path, change: dict[str, object], part: str
) -> None:
    before, after = record_of(make_cell(), tmp_path), record_of(make_cell(**change), tmp_path)
    assert before.key != after.key
    assert before.key_parts[part] != after.key_parts[part]


def test_the_name_of_the_suite_does_not_change_the_key(tmp_path: Path) -> None:
    keys = {record_of(make_cell(suite=name), tmp_path).key for name in ("one", "two")}
    assert len(keys) == 1


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Profiles count here however busy the machine is that runs the tests."""
    monkeypatch.setattr(summary, "MAX_WAITING", float("inf"))


def test_a_disturbed_profile_is_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "MAX_WAITING", -1.0)
    first, again = (record_of(make_cell(seed=seed), tmp_path) for seed in (0, 1))
    for record in (first, again):
        assert record.infer_profile is not None and record.infer_profile.is_disturbed
        assert "profile" not in {use.kind for use in record.artifacts}
    monkeypatch.setattr(summary, "MAX_WAITING", float("inf"))
    calm = record_of(make_cell(seed=2), tmp_path)
    assert {use.built for use in calm.artifacts if use.kind == "profile"} == {True}


def test_cells_of_one_run_share_features_and_profiles(tmp_path: Path) -> None:
    record_of(make_cell(), tmp_path)
    again = record_of(make_cell(seed=1), tmp_path)
    kinds = {use.kind: use.built for use in again.artifacts if not use.built}
    assert {"profile", "images"} <= set(kinds)
    assert again.standalone_seconds is not None
    assert again.standalone_seconds > again.wall_seconds


def test_a_profile_out_of_memory_leaves_the_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhaust(*_: object, **__: object) -> None:
        torch.empty(1 << 52, dtype=torch.uint8)

    # No real model of a test fits in training and then not in inference.
    monkeypatch.setattr(measure, "profile_inference", exhaust)
    record = record_of(make_cell(), tmp_path)
    assert record.status is Status.OK and record.test is not None
    assert record.infer_profile is None
    assert record.effective is not None
    assert any("the profile ran out of memory" in note for note in record.effective.notes)


def test_what_a_strategy_imports_is_no_memory_of_the_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ballast.py").write_text("held = b'x' * (512 << 20)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(LinearProbe, "imports", ("ballast", "not_installed"), raising=False)
    record = record_of(make_cell(), tmp_path)
    held = sys.modules.pop("ballast").held
    assert len(held) == 512 << 20
    assert record.host_peak_bytes is not None and record.host_peak_bytes < 512 << 20


def test_images_held_for_training_are_gone_when_the_profile_runs(tmp_path: Path) -> None:
    held: list[int] = []

    def count_feeds(progress: Progress) -> None:
        if progress.phase == "profile":
            gc.collect()
            held.append(sum(type(item) is InputFeed for item in gc.get_objects()))

    job = Job(
        cell=make_cell("full", backbone=RANDOM_RESNET, image_size=32),
        run_id=1,
        run_scope="scope",
        request_key="request",
        cache_dir=str(tmp_path),
        limits=LIMITS,
    )
    execute(job, count_feeds)
    assert held and held[0] == 0


def test_equal_weights_in_two_architectures_share_no_profile(tmp_path: Path) -> None:
    names = ("timm/efficientnet_lite0", "timm/tf_efficientnet_lite0")
    records = [
        record_of(make_cell(backbone=BackboneSpec(name=name, weights="random")), tmp_path)
        for name in names
    ]
    assert len({record.key for record in records}) == 2
    profiles = [use for record in records for use in record.artifacts if use.kind == "profile"]
    assert len({use.digest for use in profiles}) == 2 and all(use.built for use in profiles)


def test_strategies_that_treat_batch_norm_differently_share_no_profile_of_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[Mapping[str, Any]] = []
    share = measure.CellProfiler._share

    def note(self: measure.CellProfiler, key: Mapping[str, Any], *rest: Any) -> Any:
        keys.append(key)
        return share(self, key, *rest)

    monkeypatch.setattr(measure.CellProfiler, "_share", note)
    for name in ("full", "lp_ft"):
        record_of(make_cell(name, backbone=RANDOM_RESNET, image_size=32), tmp_path)
    full, lp_ft = (key for key in keys if key["pass"] == "train")
    assert full != lp_ft


def test_a_strategy_is_given_no_test_split() -> None:
    assert {field.name for field in fields(Task)} == {
        "backbone",
        "train",
        "val",
        "num_classes",
        "seed",
        "runtime",
        "refit",
    }
    assert {field.name for field in fields(Refit)} == {"train", "val", "epoch"}


def test_a_failed_cell_has_a_reason_and_no_scores(tmp_path: Path) -> None:
    cell = make_cell(dataset=DatasetSpec(name=f"folder:{tmp_path}/nothing"))
    record = record_of(cell, tmp_path)
    assert record.status is Status.ERROR
    assert record.failure is not None and "nothing" in record.failure.message
    assert record.failure.traceback == "", "a message for people needs no traceback"
    assert record.failure.phase == "load_data"
    assert record.test is None and record.predictions == () and record.standalone_seconds is None


def test_a_rate_that_blows_up_is_diverged(tmp_path: Path) -> None:
    spec = registry.strategy("full").Spec(
        name="full", epochs=1, optimizer="sgd", learning_rate=1e30, clip_norm=None
    )
    cell = make_cell("full", backbone=RANDOM_RESNET, image_size=32, strategy=spec)
    record = record_of(cell, tmp_path)
    assert record.status is Status.DIVERGED
    assert record.test is None


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), Status.OOM),
        (MemoryError(), Status.OOM),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), Status.OOM),
        (RuntimeError("shapes differ"), Status.ERROR),
        (DivergedError("no finite loss"), Status.DIVERGED),
        (DatasetError("no such folder"), Status.ERROR),
    ],
)
def test_an_exception_stands_for_a_status(error: Exception, status: Status) -> None:
    assert classify_failure(error) is status


def test_a_real_allocation_that_cannot_be_had_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 52, dtype=torch.uint8)
    assert classify_failure(caught.value) is Status.OOM


def test_phases_are_announced_as_they_begin(tmp_path: Path) -> None:
    seen: list[Progress] = []
    job = Job(
        cell=make_cell(),
        run_id=1,
        run_scope="scope",
        request_key="request",
        cache_dir=str(tmp_path),
        limits=LIMITS,
    )
    execute(job, seen.append)
    names = list(dict.fromkeys(progress.phase for progress in seen))
    assert names.index("load_backbone") < names.index("load_data") < names.index("profile")
