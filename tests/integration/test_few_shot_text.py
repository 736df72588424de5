"""Few-shot text classification from a CSV with 50 classes, beside scikit-learn, on real weights."""

from pathlib import Path

import pytest

from bench import load_suite, plan_cells
from bench.execute import execute
from bench.record import Record, Status
from bench.spec import Job, Limits
from bench.tables.rows import summarise
from benchmarks.few_shot_text import SHOTS, compare_draws, save_corpus, suite_text
from benchmarks.tasks import SCOPE

NUM_CLASSES = 50
NUM_DRAWS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few-shot-text")
    counts = save_corpus(folder, max_classes=NUM_CLASSES)
    assert len(counts) == NUM_CLASSES and min(counts.values()) >= 20
    return folder


@pytest.fixture(scope="module")
def records(folder: Path) -> list[Record]:
    (folder / "suite.yaml").write_text(suite_text(folder, num_seeds=NUM_DRAWS))
    found = []
    for cell in plan_cells(load_suite(folder / "suite.yaml")):
        job = Job(
            cell=cell,
            run_id=1,
            run_scope=SCOPE,
            request_key=str(cell.seed),
            cache_dir=str(folder / "cache"),
            limits=Limits(profile_time="0.05s"),
        )
        record = execute(job, lambda progress: None)
        assert isinstance(record, Record) and record.status is Status.OK, record
        found.append(record)
    return found


@pytest.mark.slow
def test_draws_agree_with_scikit_learn_on_the_same_embeddings(
    folder: Path, records: list[Record]
) -> None:
    draws = compare_draws(folder / "cache", records)
    assert len(draws) == NUM_DRAWS
    assert max(abs(draw.ours - draw.theirs) for draw in draws) <= 0.003
    assert len({draw.ours for draw in draws}) > 1


@pytest.mark.slow
def test_draws_are_one_row_with_the_whole_test_file_behind_it(
    folder: Path, records: list[Record]
) -> None:
    (row,) = summarise(records)
    assert row.dataset == f"table:{folder}/train.csv (test.csv, {SHOTS} shots)"
    assert row.num_seeds == NUM_DRAWS
    assert row.test_accuracy is not None and row.test_accuracy_std is not None
    assert row.test_accuracy_low is not None and row.test_accuracy_high is not None
    assert row.test_accuracy_low < row.test_accuracy < row.test_accuracy_high
    num_lines = len((folder / "test.csv").read_text().splitlines())
    for record in records:
        assert record.data is not None
        splits = record.data.splits
        assert splits["test"].num_examples == num_lines - 1
        assert splits["train"].class_counts == (SHOTS,) * NUM_CLASSES


@pytest.mark.slow
def test_later_draws_encode_only_texts_not_met_before(records: list[Record]) -> None:
    first, *others = (record.seconds["features"] for record in records)
    # By the clock, on a machine that may be busy: the test file alone is most of the first draw.
    assert max(others) < first
