import json
from collections.abc import Iterator
from pathlib import Path
from time import process_time

import pytest

from bench.digests import digest_value
from bench.interfaces import Missing
from bench.plan import plan_cells
from bench.record import Record, Status
from bench.spec import BackboneSpec, Cell, DatasetSpec, Numerics, Suite
from bench.strategies.full import FullSpec
from bench.survey import (
    _ANY_SEED,
    CellSurvey,
    _key_text,
    find_blocking,
    forget_files,
    locate_cell,
    request_key,
    survey_cells,
)
from tests.records import make_record
from tests.suite_plugins import DialSpec, TinyBackbones, registered_plugins


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The one weights file that is on disk."""
    monkeypatch.setattr(TinyBackbones, "folder", tmp_path)
    path = tmp_path / "resnet18.bin"
    path.write_bytes(b"weights")
    with registered_plugins():
        yield path


def make_cell(**fields) -> Cell:
    axes = {
        "suite": "s",
        "backbone": BackboneSpec(name="tiny/resnet18"),
        "dataset": DatasetSpec(name="tiny/set"),
        "strategy": DialSpec(name="dial"),
    }
    return Cell(**axes | fields)


# Request keys


def test_a_request_key_is_the_same_in_every_suite():
    assert request_key(make_cell()) == request_key(make_cell(suite="other"))


@pytest.mark.parametrize(
    "fields",
    [
        {"backbone": BackboneSpec(name="tiny/resnet18", weights="random")},
        {"dataset": DatasetSpec(name="tiny/set", shots=8)},
        {"strategy": DialSpec(name="dial", level=2)},
        {"strategy": FullSpec()},
        {"seed": 1},
        {"split_seed": 1},
        {"image_size": 64},
        {"numerics": Numerics.FP32},
        {"compile": True},
    ],
)
def test_all_that_can_change_the_numbers_changes_the_request_key(fields):
    assert request_key(make_cell(**fields)) != request_key(make_cell())


def test_changed_weights_change_the_request_key(weights):
    before = request_key(make_cell())
    weights.write_bytes(b"other weights")
    forget_files()
    assert request_key(make_cell()) != before


def test_weights_that_vanish_change_the_request_key(weights):
    before = request_key(make_cell())
    weights.unlink()
    forget_files()
    assert request_key(make_cell()) != before


def test_a_new_version_of_a_strategy_changes_the_request_key():
    before = request_key(make_cell())
    with registered_plugins({"strategies": {"dial": "tests.suite_plugins:DialTwo"}}):
        assert request_key(make_cell()) != before


def test_a_change_to_one_option_changes_the_request_key_of_cells_that_use_it(monkeypatch):
    plain = make_cell(strategy=FullSpec())
    from_probe = make_cell(strategy=FullSpec(head_init="probe"))
    assert request_key(from_probe) != request_key(plain)
    before = request_key(from_probe), request_key(plain)
    monkeypatch.setattr(FullSpec, "amendment", lambda spec: "")
    forget_files()
    assert request_key(plain) == before[1]
    assert request_key(from_probe) != before[0]


def test_the_version_of_a_package_is_part_of_the_request_key(monkeypatch):
    from bench import survey

    before = request_key(make_cell())
    monkeypatch.setattr(survey, "_version", lambda name: f"99 of {name}")
    forget_files()
    assert request_key(make_cell()) != before


def test_seeds_that_share_a_text_have_each_the_key_of_its_own():
    keys = {request_key(make_cell(seed=seed)) for seed in (0, 1, 12)}
    assert len(keys) == 3
    before, after = _key_text(make_cell(seed=_ANY_SEED))
    for seed in (0, 12):
        text = f"{before}{seed}{after}"
        assert json.loads(text)["cell"] == make_cell(seed=seed).canonical()
        assert digest_value(json.loads(text)) == request_key(make_cell(seed=seed))


def test_files_are_looked_at_once_per_backbone():
    TinyBackbones.located = 0
    for seed in range(50):
        request_key(make_cell(seed=seed))
    assert TinyBackbones.located == 1


@pytest.mark.timed
def test_ten_thousand_cells_take_less_than_three_seconds():
    suite = Suite(
        name="big",
        backbones=[BackboneSpec(name=f"tiny/resnet18.{n}") for n in range(100)],
        datasets=[DatasetSpec(name="tiny/set", shots=tuple(range(1, 11)))],
        strategies=[DialSpec(name="dial")],
        seeds=tuple(range(10)),
    )
    began = process_time()
    surveys = survey_cells(plan_cells(suite))
    assert process_time() - began < 3
    assert len({survey.request_key for survey in surveys}) == 10_000


# What is known of cells


def test_a_cell_is_located_with_all_its_parts(weights):
    located = locate_cell(make_cell(dataset=DatasetSpec(name="digits")))
    assert weights in located.files
    assert any("digits" in path.name for path in located.files)
    assert {"pydantic", "scikit-learn"} <= set(located.packages)
    assert located.missing == ()


def test_a_cell_that_the_run_holds_is_measured():
    cells = [make_cell(seed=0), make_cell(seed=1)]
    surveys = survey_cells(cells, ok_request_keys={request_key(cells[1])})
    assert [survey.measured for survey in surveys] == [False, True]
    assert [survey.estimated_seconds for survey in surveys] == [None, 0.0]


def test_what_is_missing_is_told_per_cell():
    (survey,) = survey_cells([make_cell(backbone=BackboneSpec(name="tiny/resnet50"))])
    assert [lack.what for lack in survey.missing] == ["weights of tiny/resnet50"]


def past(backbone: str, dataset: str, seconds: float) -> Record:
    """An earlier record for the estimates."""
    record = make_record(backbone=backbone, dataset=dataset, strategy="dial")
    return record.model_copy(update={"wall_seconds": seconds})


def test_an_estimate_is_the_median_of_the_same_backbone_dataset_and_strategy():
    records = [past("tiny/resnet18", "tiny/set", seconds) for seconds in (1, 2, 60)]
    records.append(past("tiny/resnet18", "digits", 500))
    (survey,) = survey_cells([make_cell()], records=records)
    assert survey.estimated_seconds == 2


def test_an_estimate_falls_back_on_other_datasets_but_not_on_other_backbones():
    records = [past("tiny/resnet18", "digits", 500), past("tiny/resnet50", "tiny/set", 7)]
    (survey,) = survey_cells([make_cell()], records=records)
    assert survey.estimated_seconds == 500


def test_a_failed_record_is_no_estimate():
    failed = past("tiny/resnet18", "tiny/set", 7).model_copy(update={"status": Status.TIMEOUT})
    (survey,) = survey_cells([make_cell()], records=[failed])
    assert survey.estimated_seconds is None


def lacking(*, downloadable: bool, measured: bool = False) -> CellSurvey:
    lack = Missing("weights", "fetch them", downloadable=downloadable)
    return CellSurvey(make_cell(), "key", (lack,), measured, None)


def test_only_what_cannot_be_downloaded_blocks_with_a_network():
    surveys = [lacking(downloadable=True), lacking(downloadable=False), lacking(downloadable=False)]
    assert [lack.downloadable for lack in find_blocking(surveys, offline=False)] == [False]


def test_everything_missing_blocks_offline():
    surveys = [lacking(downloadable=True), lacking(downloadable=False)]
    assert len(find_blocking(surveys, offline=True)) == 2


def test_what_a_measured_cell_lacks_does_not_block():
    assert find_blocking([lacking(downloadable=False, measured=True)], offline=True) == ()
