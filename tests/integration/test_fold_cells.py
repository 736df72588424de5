"""Folds from a suite to the table: cells, one row of every example, and a night that is red."""

import gc
from collections.abc import Iterator

import numpy as np
import pytest

from bench import load_suite, plan_cells
from bench.execute import execute
from bench.gate import Metric, Verdict, judge, read_cell
from bench.metrics import pack_outcomes, unpack_predictions
from bench.record import Record, Status
from bench.spec import Job, Limits
from bench.tables import summarise

SUITE = """\
name: folded
backbones: [plain/pixels]
datasets: [{name: digits, folds: 3}]
strategies:
  - {name: knn, k: 1, temperature: 0.07}
  - nearest_centroid
seeds: [0, 1]
image_size: 8
numerics: fp32
"""


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Record]]:
    folder = tmp_path_factory.mktemp("folded")
    (folder / "s.yaml").write_text(SUITE)
    gc.freeze()
    found = []
    for cell in plan_cells(load_suite(folder / "s.yaml")):
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
        found.append(with_outcomes(record))
    yield found
    gc.unfreeze()


def with_outcomes(record: Record) -> Record:
    """Return the record as a store gives it back."""
    test = record.predictions[-1]
    outcomes = pack_outcomes(test.ids_digest, test.labels, test.predicted)
    return record.model_copy(update={"outcomes": outcomes})


def of(records: list[Record], strategy: str) -> list[Record]:
    return [record for record in records if record.cell.strategy.name == strategy]


def test_every_example_is_judged_once_for_each_seed(records: list[Record]) -> None:
    for seed in (0, 1):
        own = [each for each in of(records, "knn") if each.cell.seed == seed]
        ids = [id_ for each in own for id_ in unpack_predictions(each.predictions[-1]).ids]
        assert len(ids) == len(set(ids)) == 1797


def test_a_row_is_the_share_of_all_examples_that_were_right(records: list[Record]) -> None:
    rows = {row.strategy: row for row in summarise(records)}
    assert set(rows) == {"knn", "nearest_centroid"}
    for name, row in rows.items():
        unpacked = [unpack_predictions(each.predictions[-1]) for each in of(records, name)]
        right = np.concatenate([each.predicted == each.labels for each in unpacked])
        assert row.test_accuracy == pytest.approx(right.mean())
        assert (row.num_seeds, row.num_cells, row.dataset) == (2, 2, "digits (3 folds)")
        assert row.test_accuracy_low < row.test_accuracy < row.test_accuracy_high
    assert (rows["knn"].rank_low, rows["nearest_centroid"].rank_low) == (1, 2)
    assert rows["knn"].majority_accuracy == pytest.approx(0.1, abs=0.01)


def test_a_night_compares_all_folds_at_once_and_refuses_another_strategy(
    records: list[Record],
) -> None:
    better, worse = (read_cell("cell", of(records, name)) for name in ("knn", "nearest_centroid"))
    assert [len(seed.predictions.ids) for seed in better.seeds if seed.predictions] == [1797, 1797]
    same = {row.metric: row.verdict for row in judge([better], [better]).rows}
    assert same[Metric.ACCURACY] is Verdict.UNCHANGED
    (row,) = judge([better], [worse]).rows
    assert row.verdict is Verdict.NOT_COMPARABLE
