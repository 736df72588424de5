"""Few-shot cells from a suite to the table: a number of shots is a row, seeds are its draws."""

import gc
from collections.abc import Iterator
from statistics import fmean, stdev

import numpy as np
import pytest

from bench import load_suite, plan_cells, summary
from bench.datasets.splits import SplitRequest, draw_splits
from bench.execute import execute
from bench.metrics import unpack_predictions
from bench.record import Record, Status
from bench.spec import Job, Limits
from bench.tables.rows import Row, summarise

SUITE = """\
name: few
backbones: [plain/pixels]
datasets: [digits]
strategies:
  - {name: nearest_centroid, metric: cosine}
  - {name: knn, k: 1, temperature: 0.07}
  - {name: ridge_probe, l2: 10}
  - {name: linear_probe, l2: 1, standardize: false}
shots: [1, 5, 10]
seeds: 0..2
image_size: 8
numerics: fp32
"""


FITTED = {"knn": 0, "nearest_centroid": 1920, "ridge_probe": 1930, "linear_probe": 1930}
"""Of 3 x 8 x 8 features and 10 classes."""


@pytest.fixture(scope="module")
def undisturbed() -> Iterator[None]:
    """Profiles are shared however busy the machine is, and collections pass over old objects."""
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary, "MAX_WAITING", float("inf"))
        yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory, undisturbed: None) -> list[Record]:
    folder = tmp_path_factory.mktemp("few")
    (folder / "few.yaml").write_text(SUITE)
    found = []
    for cell in plan_cells(load_suite(folder / "few.yaml")):
        job = Job(
            cell=cell,
            run_id=1,
            run_scope="scope",
            request_key=str(len(found)),
            cache_dir=str(folder),
            limits=Limits(profile_time="0.05s"),
        )
        record = execute(job, lambda progress: None)
        assert isinstance(record, Record) and record.status is Status.OK, record
        found.append(record)
    return found


def test_a_row_is_the_mean_and_spread_and_interval_of_its_draws(records: list[Record]) -> None:
    rows = summarise(records)
    assert len(rows) == 12
    for row in rows:
        drawn = [record for record in records if _is_of(record, row)]
        accuracies = [record.test.accuracy for record in drawn if record.test is not None]
        assert row.num_seeds == len(accuracies) == 3
        assert row.test_accuracy == pytest.approx(fmean(accuracies))
        assert row.test_accuracy_std == pytest.approx(stdev(accuracies))
        assert row.test_accuracy_low is not None and row.test_accuracy_high is not None
        assert row.test_accuracy_low < fmean(accuracies) < row.test_accuracy_high
        assert row.num_trainable_parameters == FITTED[row.strategy.partition(" ")[0]]


def test_shots_stand_in_the_order_of_their_number(records: list[Record]) -> None:
    datasets = list(dict.fromkeys(row.dataset for row in summarise(records)))
    assert datasets == ["digits (1 shots)", "digits (5 shots)", "digits (10 shots)"]


def test_every_draw_has_its_own_train_and_the_whole_test(records: list[Record]) -> None:
    for shots in (1, 5, 10):
        few = [record for record in records if record.cell.dataset.shots == shots]
        splits = [record.data.splits for record in few if record.data is not None]
        assert all("val" not in parts for parts in splits)
        assert {parts["train"].class_counts for parts in splits} == {(shots,) * 10}
        assert len({parts["train"].ids_digest for parts in splits}) == 3
        tests = {parts["test"].ids_digest for parts in splits}
        assert len(tests) == 1
    answers = [unpack_predictions(record.predictions[-1]).ids for record in records]
    assert len(set(answers)) == 1 and len(answers[0]) == 359


def test_more_shots_are_better_and_cost_no_image_twice(records: list[Record]) -> None:
    def mean(shots: int) -> float:
        few = [record for record in records if record.cell.dataset.shots == shots]
        return fmean(record.test.accuracy for record in few if record.test is not None)

    assert mean(1) < mean(5) < mean(10)
    made = [
        (record.cell.strategy.name, use.digest)
        for record in records
        for use in record.artifacts
        if use.kind == "features" and use.built
    ]
    # The first strategy meets every image; the others find them all.
    assert {name for name, _ in made} == {records[0].cell.strategy.name}
    assert len({digest for _, digest in made}) == 1


def test_a_draw_is_not_the_draw_of_another_seed_and_holds_the_smaller_ones() -> None:
    labels = np.arange(200) % 4
    names = ["a", "b", "c", "d"]

    def draw(seed: int, shots: int) -> set[int]:
        request = SplitRequest(split_seed=0, seed=seed, needs_val=False, shots=shots)
        return set(draw_splits({"train": labels}, names, request).train.tolist())

    draws = [draw(seed, 5) for seed in range(10)]
    assert len({frozenset(rows) for rows in draws}) == 10
    assert all(draw(seed, 1) < draws[seed] < draw(seed, 10) for seed in range(10))


def _is_of(record: Record, row: Row) -> bool:
    named = record.cell.strategy.name, record.cell.dataset.label
    return named == (row.strategy.partition(" ")[0], row.dataset)
