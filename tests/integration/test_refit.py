"""What val chose, fitted again on train and val: the model that the test split sees."""

import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import registry
from bench.artifacts import ArtifactCache
from bench.datasets.export import export_splits
from bench.datasets.split_files import SplitDraw, SplitFile, write_split_file
from bench.errors import StrategyError
from bench.execute import execute
from bench.interfaces import Adapted, Refit, Split, Task
from bench.metrics import unpack_predictions
from bench.record import GridPoint, Progress, Record, Selection, Status
from bench.spec import BackboneSpec, Cell, DatasetSpec, Job, Limits, Numerics, StrategySpec
from bench.strategies.features import extract_features
from bench.strategies.full import FullSpec
from bench.strategies.gradual_unfreeze import GradualUnfreezeSpec
from bench.strategies.knn import KnnSpec
from bench.strategies.linear_probe import LinearProbe, LinearProbeSpec, probe_head
from bench.strategies.refit import describe_refit, join_splits, refit_task, settle
from bench.tables.detail import record_text
from tests.training import make_split, make_task

RESNET = BackboneSpec(name="timm/test_resnet", weights="random")
PIXELS = BackboneSpec(name="plain/pixels")


@pytest.fixture(scope="module", autouse=True)
def quick_collections() -> Iterator[None]:
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("refit")


def make_cell(strategy: StrategySpec, backbone: BackboneSpec = PIXELS, **dataset: object) -> Cell:
    return Cell(
        suite="tests",
        backbone=backbone,
        dataset=DatasetSpec.model_validate({"name": "digits", **dataset}),
        strategy=strategy,
        image_size=16,
        numerics=Numerics.FP32,
    )


def run(cell: Cell, folder: Path) -> Record:
    job = Job(
        cell=cell,
        run_id=1,
        run_scope="scope",
        request_key="request",
        cache_dir=str(folder),
        limits=Limits(profile_time="0.05s"),
    )
    record = execute(job, lambda progress: None)
    assert isinstance(record, Record)
    return record


def write_joined(folder: Path, train_examples: int) -> str:
    """Write a file in which train is what train and val are for seed 0, and val is none."""
    spec = DatasetSpec(name="digits", train_examples=train_examples)
    cache = ArtifactCache(folder, run_scope="tests")
    (draw,) = export_splits(spec, split_seed=0, seeds=(0,), cache=cache).draws
    joined = SplitDraw(train=(*draw.train, *(draw.val or ())), val=(), test=draw.test)
    path = folder / f"joined-{train_examples}.json"
    write_split_file(path, SplitFile(draws=(joined,)))
    return str(path)


def logits_of(record: Record, split: str = "test") -> np.ndarray:
    (found,) = [packed for packed in record.predictions if packed.split == split]
    return unpack_predictions(found).true_probability


def test_a_probe_fitted_again_is_the_probe_of_that_strength_on_all_examples(folder: Path) -> None:
    record = run(make_cell(LinearProbeSpec(), train_examples=100, refit="train+val"), folder)
    assert record.status is Status.OK, record.failure
    assert record.selection is not None and record.refit is not None
    assert record.refit.num_examples == 100 and record.refit.epochs is None
    chosen = record.selection.points[record.selection.chosen].setting["l2"]
    alone = run(make_cell(LinearProbeSpec(l2=chosen), splits=write_joined(folder, 100)), folder)
    np.testing.assert_array_equal(logits_of(record), logits_of(alone))
    assert record.data is not None and alone.data is not None
    assert record.refit.ids_digest == alone.data.splits["train"].ids_digest


def test_val_scores_and_predictions_are_those_of_the_choice(folder: Path) -> None:
    plain = run(make_cell(LinearProbeSpec(), train_examples=100), folder)
    again = run(make_cell(LinearProbeSpec(), train_examples=100, refit="train+val"), folder)
    assert plain.val == again.val and plain.selection == again.selection
    np.testing.assert_array_equal(logits_of(plain, "val"), logits_of(again, "val"))
    assert plain.data == again.data
    assert not np.array_equal(logits_of(plain), logits_of(again))
    assert plain.refit is None


def test_a_refit_is_part_of_the_key_only_where_it_is_on(folder: Path) -> None:
    plain = run(make_cell(LinearProbeSpec(), train_examples=100), folder)
    again = run(make_cell(LinearProbeSpec(), train_examples=100, refit="train+val"), folder)
    assert again.key_parts == {**plain.key_parts, "refit": "train+val"}
    assert again.key != plain.key


def test_a_strategy_that_chooses_nothing_is_fitted_once_on_all_examples(folder: Path) -> None:
    spec = KnnSpec(k=1, temperature=0.07)
    record = run(make_cell(spec, train_examples=100, refit="train+val"), folder)
    assert record.val is None and record.selection is None
    assert record.refit is not None and record.refit.num_examples == 100
    assert "adapt" not in record.seconds
    alone = run(make_cell(spec, splits=write_joined(folder, 100)), folder)
    np.testing.assert_array_equal(logits_of(record), logits_of(alone))


def test_training_again_begins_from_the_weights_as_loaded(folder: Path) -> None:
    spec = FullSpec(epochs=1, batch_size=16, learning_rate=(3e-3, 1e-4), warmup_fraction=0.0)
    record = run(make_cell(spec, RESNET, train_examples=200, refit="train+val"), folder)
    assert record.status is Status.OK, record.failure
    assert record.selection is not None and record.refit is not None
    assert record.refit.epochs == 1 and record.refit.curve[0].val_accuracy is None
    assert record.curve[0].val_accuracy is not None
    chosen = record.selection.points[record.selection.chosen].setting["learning_rate"]
    fixed = spec.model_copy(update={"learning_rate": chosen})
    alone = run(make_cell(fixed, RESNET, splits=write_joined(folder, 200)), folder)
    assert alone.status is Status.OK and alone.val is None
    np.testing.assert_array_equal(logits_of(record), logits_of(alone))
    assert record.num_trainable_parameters == alone.num_trainable_parameters


def test_a_fold_is_fitted_again_on_all_other_folds(folder: Path) -> None:
    cell = make_cell(LinearProbeSpec(), folds=3, refit="train+val")
    record = run(cell.model_copy(update={"fold": 1}), folder)
    assert record.status is Status.OK, record.failure
    assert record.refit is not None and record.data is not None
    assert record.refit.num_examples == 1797 - record.data.splits["test"].num_examples == 1198


def test_a_file_of_exported_splits_gives_the_key_of_the_drawing(folder: Path) -> None:
    cache = ArtifactCache(folder, run_scope="tests")
    drawn = DatasetSpec(name="digits", folds=3)
    path = folder / "folds.json"
    write_split_file(path, export_splits(drawn, split_seed=0, seeds=(0,), cache=cache))
    specs = [{"folds": 3}, {"folds": 3, "splits": str(path)}]
    for strategy in (KnnSpec(), KnnSpec(k=1, temperature=0.07)):
        cells = [make_cell(strategy, **spec).model_copy(update={"fold": 2}) for spec in specs]
        first, second = (run(cell, folder) for cell in cells)
        assert first.status is second.status is Status.OK
        assert first.key == second.key and first.data == second.data
        np.testing.assert_array_equal(logits_of(first), logits_of(second))


def test_the_page_of_a_record_says_that_it_was_fitted_again(folder: Path) -> None:
    record = run(make_cell(LinearProbeSpec(), train_examples=100, refit="train+val"), folder)
    text = record_text(record)
    assert "fitted again\n  on train and val       100 examples; test is of this model" in text
    folded = record.model_copy(
        update={
            "cell": make_cell(LinearProbeSpec(), folds=3).model_copy(update={"fold": 1}),
            "refit": None,
        }
    )
    assert "  fold                   1 of 3\n" in record_text(folded)
    assert "fitted again" not in record_text(folded)


def test_weights_that_change_under_a_cell_are_an_error(folder: Path) -> None:
    path = folder / "weights.pt"
    source = registry.backbone_source("timm/test_resnet")

    def write(seed: int) -> None:
        module = source.load(RESNET, image_size=16, seed=seed).module
        torch.save(module.state_dict(), path)

    def overwrite(progress: Progress) -> None:
        if progress.phase == "evaluate":
            write(1)

    write(0)
    backbone = BackboneSpec(name="timm/test_resnet", checkpoint=str(path))
    spec = FullSpec(epochs=2, batch_size=32)
    cell = make_cell(spec, backbone, train_examples=60, refit="train+val")
    job = Job(cell=cell, run_id=1, run_scope="scope", request_key="request", cache_dir=str(folder))
    record = execute(job, overwrite)
    assert isinstance(record, Record) and record.failure is not None
    assert record.failure.message.startswith("timm/test_resnet: its weights are others than when ")
    assert record.failure.message.endswith(": something wrote to their files. Run the cell again.")
    assert record.refit is None and record.test is None


def split_in_two(num_train: int = 36) -> tuple[Split, Split]:
    """Return train and val over one pool, interleaved."""
    whole = make_split("all", 48, 1)
    rows = np.random.default_rng(0).permutation(48)

    def part(name: str, chosen: np.ndarray) -> Split:
        chosen = np.sort(chosen)
        ids = tuple(whole.ids[row] for row in chosen)
        return replace(whole, name=name, ids=ids, labels=whole.labels[chosen], rows=chosen)

    return part("train", rows[:num_train]), part("val", rows[num_train:])


def chosen_task(epoch: int | None = None) -> tuple[Task, Task]:
    """Return a task to choose with, and the one to fit again with."""
    train, val = split_in_two()
    task = replace(make_task(), train=train, val=val)
    return task, refit_task(task, epoch, chosen=True)


def test_train_and_val_are_joined_in_the_order_of_their_rows() -> None:
    train, val = split_in_two()
    joined = join_splits(train, val)
    whole = make_split("all", 48, 1)
    assert joined.ids == whole.ids and joined.name == "train+val"
    np.testing.assert_array_equal(joined.rows, np.arange(48))
    np.testing.assert_array_equal(joined.labels, whole.labels)
    assert joined.ids_digest != train.ids_digest


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_training_ends_at_the_chosen_epoch_of_the_schedule_as_asked(schedule: str) -> None:
    _, again = chosen_task(epoch=2)
    spec = FullSpec(epochs=4, batch_size=16, schedule=schedule)
    stopped = registry.strategy("full").adapt(again, spec)
    whole = registry.strategy("full").adapt(replace(chosen_task()[1], refit=None), spec)
    assert [point.epoch for point in stopped.curve] == [1, 2]
    for one, other in zip(stopped.curve, whole.curve[:2], strict=True):
        assert (one.train_loss, one.learning_rate) == (other.train_loss, other.learning_rate)
    assert describe_refit(again, stopped).epochs == 2
    assert not any("no val split" in note for note in stopped.effective.notes)
    assert any("no val split" in note for note in whole.effective.notes)


def test_the_weights_are_those_of_the_chosen_epoch() -> None:
    """As of a training whose val is best after that epoch, on the same examples."""
    _, again = chosen_task(epoch=1)
    spec = FullSpec(epochs=3, batch_size=16, schedule="constant", warmup_fraction=0.0)
    stopped = registry.strategy("full").adapt(again, spec)
    short = registry.strategy("full").adapt(
        replace(chosen_task()[1], refit=None), spec.model_copy(update={"epochs": 1})
    )
    torch.testing.assert_close(
        stopped.predict(again.train), short.predict(again.train), rtol=0, atol=0
    )


def test_stages_that_the_chosen_epoch_never_reached_are_not_counted() -> None:
    spec = GradualUnfreezeSpec(epochs=3, batch_size=16)
    counts = {
        epoch: registry.strategy(spec.name).adapt(chosen_task(epoch)[1], spec) for epoch in (1, 3)
    }
    assert counts[1].num_trainable_parameters == 3 * (16 + 1)
    assert counts[3].num_trainable_parameters > counts[1].num_trainable_parameters


def test_the_head_to_begin_from_keeps_the_strength_that_val_chose() -> None:
    task, again = chosen_task()
    plain = LinearProbeSpec(standardize=False)
    path = LinearProbe().adapt(task, plain).selection
    assert path is not None
    strength = path.points[path.chosen].setting["l2"]
    fixed = plain.model_copy(update={"l2": strength})
    own = LinearProbe().adapt(replace(again, refit=None), fixed).predict(again.train)
    weight, bias = probe_head(again)
    features = extract_features(again.backbone, again.train, again.runtime)
    torch.testing.assert_close(features @ weight.T + bias, own)
    weight, bias = probe_head(replace(again, refit=None))
    assert not torch.allclose(features @ weight.T + bias, own), "1.0 stands where nothing chose"


def test_a_selection_that_does_not_tell_the_choice_is_refused() -> None:
    spec = KnnSpec(k=(1, 2), temperature=0.07)
    point = GridPoint(setting={"temperature": 0.07}, val_accuracy=0.5, val_loss=1.0)
    selection = Selection(points=(point,), chosen=0, at_grid_edge=None)
    with pytest.raises(StrategyError) as caught:
        settle(spec, selection)
    assert str(caught.value) == (
        "knn: cannot refit: its selection tells the chosen value of temperature, which is not "
        "every field with a grid. Give single values, or leave refit out."
    )
    with pytest.raises(StrategyError, match="knn: no selection to refit with"):
        settle(spec, None)


def test_a_strategy_that_does_not_end_at_the_chosen_epoch_is_refused() -> None:
    _, again = chosen_task(epoch=2)
    ran = registry.strategy("full").adapt(
        replace(again, refit=None), FullSpec(epochs=3, batch_size=16)
    )
    assert isinstance(ran, Adapted) and isinstance(again.refit, Refit)
    with pytest.raises(StrategyError) as caught:
        describe_refit(again, ran)
    assert str(caught.value) == (
        "the second fit trained 3 epochs where 2 were chosen: a strategy that takes epochs must "
        "end at Task.last_epoch"
    )
