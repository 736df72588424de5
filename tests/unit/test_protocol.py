"""What a suite asks of train, val and test: expanded into cells, or refused with a reason."""

from pathlib import Path

import pytest

from bench import load_suite, plan_cells
from bench.errors import SuiteError, UsageError
from bench.plan import expand_datasets
from bench.protocol import Defaults, expand_dataset, find_conflict
from bench.spec import BackboneSpec, Cell, DatasetSpec, StrategySpec, Suite
from bench.survey import forget_files, request_key

SUITE = """\
name: one
backbones: [plain/pixels]
datasets:
  - {dataset}
strategies: [knn]
{more}
"""


def write(folder: Path, dataset: str, more: str = "") -> Path:
    path = folder / "s.yaml"
    path.write_text(SUITE.format(dataset=dataset, more=more))
    return path


def make_suite(*datasets: DatasetSpec, **changes: object) -> Suite:
    values = {
        "name": "one",
        "backbones": (BackboneSpec(name="plain/pixels"),),
        "datasets": datasets,
        "strategies": (StrategySpec(name="knn"),),
        **changes,
    }
    return Suite(**values)  # type: ignore[arg-type]


def test_a_protocol_gives_the_cells_of_the_suite_that_spells_it_out() -> None:
    short = make_suite(DatasetSpec(name="mnist-5k", protocol="vtab-1k"))
    whole = make_suite(DatasetSpec(name="mnist-5k"), protocol="vtab-1k")
    spelled = make_suite(DatasetSpec(name="mnist-5k", train_examples=1000, refit="train+val"))
    assert plan_cells(short) == plan_cells(whole) == plan_cells(spelled)
    assert plan_cells(short)[0].dataset.train_examples == 1000


def test_a_dataset_keeps_to_what_it_says_itself_where_the_suite_refits() -> None:
    own, none = DatasetSpec(name="digits"), DatasetSpec(name="mnist-5k", refit="none")
    refits = [spec.refit for spec in expand_datasets(make_suite(own, none, refit="train+val"))]
    assert refits == ["train+val", None]


def test_a_refit_that_is_off_is_the_cell_that_never_heard_of_it() -> None:
    plain = make_suite(DatasetSpec(name="digits"))
    off = make_suite(DatasetSpec(name="digits", refit="none"))
    assert plan_cells(plain) == plan_cells(off)


def test_what_is_off_is_not_written_so_that_keys_stay() -> None:
    cell = Cell(
        suite="s",
        backbone=BackboneSpec(name="plain/pixels"),
        dataset=DatasetSpec(name="digits"),
        strategy=StrategySpec(name="knn"),
    )
    assert "fold" not in cell.canonical()
    known = {"name", "image_size", "train_examples", "shots", "max_corrupt_fraction"}
    assert set(cell.canonical()["dataset"]) == known
    first = cell.model_copy(update={"fold": 0})
    assert first.canonical()["fold"] == 0
    assert Cell.model_validate_json(first.model_dump_json()) == first
    assert Cell.model_validate_json(cell.model_dump_json()) == cell


def test_folds_are_cells_of_every_seed_with_a_key_of_their_own() -> None:
    cells = plan_cells(make_suite(DatasetSpec(name="digits", folds=3), seeds=(0, 4)))
    assert [(cell.seed, cell.fold) for cell in cells] == [(s, f) for s in (0, 4) for f in range(3)]
    assert len({request_key(cell) for cell in cells}) == 6
    assert cells[4].label == "plain/pixels · digits (3 folds) · knn · seed 4 · fold 1"


def test_shots_and_folds_both_stand_in_the_label() -> None:
    spec = DatasetSpec(name="digits", folds=3)
    labels = [each.label for each in expand_dataset(spec, Defaults(shots=(1, 5)))]
    assert labels == ["digits (1 shots, 3 folds)", "digits (5 shots, 3 folds)"]


def test_a_file_of_splits_is_part_of_the_request_key_with_its_time_stamp(tmp_path: Path) -> None:
    path = tmp_path / "digits.json"
    path.write_text('{"train": ["1"], "test": ["2"]}')
    (cell,) = plan_cells(make_suite(DatasetSpec(name="digits", splits=str(path))))
    before = request_key(cell)
    path.write_text('{"train": ["1"], "test": ["2", "3"]}')
    forget_files()
    assert request_key(cell) != before


VTAB = "protocol: vtab-1k sets train, val and refit itself, beside {}: keep one of them"
REFIT = (
    "refit: train+val would add the examples of val to the shots, which then are more than asked: "
    "leave out one of them, or write refit: none"
)
SPLITS = "splits says which examples are train, so {} has nothing to draw: keep one"


@pytest.mark.parametrize(
    ("fields", "defaults", "expected"),
    [
        ({"protocol": "vtab-1k", "train_examples": 100}, {}, VTAB.format("train_examples")),
        ({"train_examples": 100}, {"protocol": "vtab-1k"}, VTAB.format("train_examples")),
        ({"protocol": "vtab-1k"}, {"shots": 5}, VTAB.format("shots")),
        (
            {"protocol": "vtab-1k", "folds": 3, "refit": "none"},
            {},
            VTAB.format("folds and refit: none"),
        ),
        ({}, {"protocol": "vtab-1k", "refit": "none"}, VTAB.format("refit: none")),
        ({"protocol": "vtab-1k"}, {"refit": "none"}, None),
        ({"splits": "a.json"}, {"protocol": "vtab-1k"}, VTAB.format("splits")),
        ({"splits": "a.json", "shots": 5}, {}, SPLITS.format("shots")),
        ({"splits": "a.json", "train_examples": 5}, {}, SPLITS.format("train_examples")),
        ({"splits": "a.json"}, {"shots": (1, 5)}, SPLITS.format("shots")),
        ({"shots": 5, "refit": "train+val"}, {}, REFIT),
        ({"shots": 5}, {"refit": "train+val"}, REFIT),
        ({"shots": 5, "refit": "none"}, {"refit": "train+val"}, None),
        ({"splits": "a.json", "folds": 3, "refit": "train+val"}, {}, None),
        ({"folds": 3}, {"shots": 5}, None),
    ],
)
def test_what_contradicts_itself_is_refused_with_the_reason(
    fields: dict[str, object], defaults: dict[str, object], expected: str | None
) -> None:
    spec = DatasetSpec.model_validate({"name": "digits", **fields})
    assert find_conflict(spec, Defaults(**defaults)) == expected  # type: ignore[arg-type]


def test_a_suite_file_names_the_line_of_a_contradiction(tmp_path: Path) -> None:
    path = write(tmp_path, "{name: digits, folds: 3}", "protocol: vtab-1k")
    with pytest.raises(SuiteError) as caught:
        load_suite(path)
    assert caught.value.problems == (f"{path}:4: dataset 'digits': {VTAB.format('folds')}",)
    with pytest.raises(SuiteError, match=r"s.yaml:4: refit: train\+val would add"):
        load_suite(write(tmp_path, "{name: digits, shots: 5, refit: train+val}"))


def test_a_suite_file_names_the_line_of_a_file_of_splits_that_is_not_there(tmp_path: Path) -> None:
    path = write(tmp_path, "{name: digits, splits: nowhere.json}")
    with pytest.raises(SuiteError) as caught:
        load_suite(path)
    assert caught.value.problems == (
        f"{path}:4: dataset 'digits': no file 'nowhere.json' with its splits; write one with: "
        "bench splits export SUITE",
    )


def test_a_suite_made_in_python_is_refused_when_it_is_planned() -> None:
    suite = make_suite(DatasetSpec(name="digits", folds=3), protocol="vtab-1k")
    with pytest.raises(UsageError, match=r"^dataset 'digits': protocol: vtab-1k sets train"):
        plan_cells(suite)


def test_one_fold_is_no_folds(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"s.yaml:4: .*folds.* 2"):
        load_suite(write(tmp_path, "{name: digits, folds: 1}"))
