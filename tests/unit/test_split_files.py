"""Splits as files: what is read, what is refused and in which words."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench.artifacts import ArtifactCache
from bench.datasets.drawing import Draw, split_dataset
from bench.datasets.export import export_splits, file_names
from bench.datasets.split_files import read_split_file, write_split_file
from bench.datasets.splits import DrawnSplits
from bench.errors import DatasetError
from bench.interfaces import Examples, RawDataset
from bench.registry import dataset_source
from bench.spec import DatasetSpec

IDS = tuple(f"i{number}" for number in range(12))
DATASET = RawDataset(
    name="toy",
    class_names=("ant", "bee"),
    parts={
        "train": Examples(
            ids=IDS,
            labels=np.arange(12) % 2,
            contents=IDS,
            read=lambda position: str(position),
        )
    },
    fingerprint="f" * 64,
)
GOOD = {"train": ["i0", "i1", "i2", "i3"], "val": ["i4", "i5"], "test": ["i6", "i7"]}


def split(
    folder: Path, content: object, *, folds: int | None = None, **draw: object
) -> DrawnSplits:
    path = folder / "s.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    values = {"split_seed": 0, "seed": 0, "fold": None if folds is None else 0, **draw}
    spec = DatasetSpec(name="toy", splits=str(path), folds=folds)
    return split_dataset(DATASET, spec, Draw(**values))  # type: ignore[arg-type]


def problem(folder: Path, content: object, **wishes: object) -> str:
    with pytest.raises(DatasetError) as caught:
        split(folder, content, **wishes)  # type: ignore[arg-type]
    return str(caught.value).replace(str(folder / "s.json"), "FILE")


def test_a_file_of_three_lists_is_the_splits_of_every_seed(tmp_path: Path) -> None:
    shuffled = {name: ids[::-1] for name, ids in GOOD.items()}
    for seed in (0, 7):
        found = split(tmp_path, shuffled, seed=seed)
        rows = {name: part.tolist() for name, part in found.items()}
        assert rows == {"train": [0, 1, 2, 3], "val": [4, 5], "test": [6, 7]}


def test_val_is_left_aside_where_nothing_is_chosen_and_train_is_the_same(tmp_path: Path) -> None:
    found = split(tmp_path, GOOD, needs_val=False)
    assert found.val is None and found.train.tolist() == [0, 1, 2, 3]


def test_a_val_that_the_file_leaves_out_is_drawn_from_train_by_the_seed(tmp_path: Path) -> None:
    content = {"train": list(IDS[:10]), "test": ["i10", "i11"]}
    found = [split(tmp_path, content, seed=seed) for seed in range(5)]
    for each in found:
        assert each.val is not None and len(each.val) == 2
        assert sorted([*each.train, *each.val]) == list(range(10))
    assert len({tuple(each.val.tolist()) for each in found if each.val is not None}) > 1


def test_the_draw_of_the_seed_and_fold_is_taken(tmp_path: Path) -> None:
    draws = [
        {"seed": 3, "fold": fold, "train": list(IDS[:4]), "val": [], "test": [f"i{4 + 2 * fold}"]}
        for fold in (0, 1)
    ]
    for draw in draws:
        draw["test"] += [f"i{5 + 2 * draw['fold']}"]
    found = split(tmp_path, {"draws": draws}, folds=2, fold=1, seed=3, needs_val=False)
    assert found.test.tolist() == [6, 7]


@pytest.mark.parametrize(
    ("content", "wishes", "expected"),
    [
        (
            GOOD | {"test": ["i6", "i7", "j1", "j2", "j3", "j4"]},
            {},
            "toy: FILE: 4 ids of test are not in the data: 'j1', 'j2', 'j3' and 1 more. Its ids "
            "are like: 'i0', 'i1', 'i2' and 9 more.",
        ),
        (
            GOOD | {"train": ["i0", "i1", "i0"]},
            {},
            "toy: FILE: ids stand twice in train: 'i0'.",
        ),
        (
            GOOD | {"test": ["i6", "i7", "i1"]},
            {},
            "toy: FILE: ids are in both train and test: 'i1'. An example belongs to one split.",
        ),
        (
            GOOD | {"train": ["i0", "i2"]},
            {},
            "toy: FILE: class 'bee' has 0 examples for train, 1 needed. Add examples, ask for "
            "fewer, or leave the class out.",
        ),
        (
            GOOD | {"test": ["i7"]},
            {},
            "toy: FILE: class 'ant' has 0 examples for test, 1 needed. Add examples, ask for "
            "fewer, or leave the class out.",
        ),
        (
            GOOD | {"fingerprint": "0" * 64},
            {},
            "toy: FILE is of other data: its fingerprint is 000000000000, that of the data "
            "ffffffffffff. Export the splits again, or remove the fingerprint from the file if "
            "its ids still mean the same.",
        ),
        (
            {"draws": [{"seed": 1, **GOOD}, {"seed": 2, **GOOD}]},
            {},
            "toy: FILE has no draw for seed 0, only for seed 1; seed 2. Export it again with this "
            "suite, or leave seed out of a draw that is for every seed.",
        ),
        (
            {"draws": [{"seed": 0, **GOOD}, GOOD]},
            {},
            "toy: FILE has 2 draws for seed 0: keep one of them.",
        ),
        (
            {"draws": [{"fold": 0, **GOOD}, {"fold": 1, **GOOD}]},
            {"folds": 2},
            "toy (2 folds): FILE: folds 0 and 1 of seed 0 both test 'i6'; an example is in the "
            "test split of one fold.",
        ),
        (
            {"draws": [{"fold": fold, **GOOD} for fold in range(3)]},
            {"folds": 2},
            "toy (2 folds): FILE has fold 2 of seed 0 too, counted from 0, and the suite has "
            "folds: 2. Set folds to what the file holds.",
        ),
        (
            {"draws": [{"fold": 0, **GOOD}]},
            {"folds": 2},
            "toy (2 folds): FILE has no draw for seed 0, fold 1, only for every seed, fold 0. "
            "Export it again with this suite, or leave seed out of a draw that is for every seed.",
        ),
        (
            {"train": ["i0"]},
            {},
            "toy: FILE is not a file of splits: draws.0.test: Field required. It holds train, test "
            "and perhaps val as lists of ids, or draws, a list of such mappings with seed and "
            "fold.",
        ),
        (
            "train: i0",
            {},
            "toy: FILE is not a file of splits: not JSON: Expecting value: line 1 column 1 "
            "(char 0).",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_sentence(
    tmp_path: Path, content: object, wishes: dict[str, object], expected: str
) -> None:
    assert problem(tmp_path, content, **wishes) == expected


def test_a_file_that_is_not_there_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        read_split_file(tmp_path / "none.json")
    assert str(caught.value) == (
        f"no file of splits at {tmp_path / 'none.json'}: No such file or directory. Write one "
        "with: bench splits export SUITE"
    )


def test_a_cell_without_its_fold_is_refused() -> None:
    spec = DatasetSpec(name="toy", folds=3)
    for fold in (None, 3):
        with pytest.raises(DatasetError) as caught:
            split_dataset(DATASET, spec, Draw(0, 0, fold))
        assert str(caught.value) == (
            f"toy (3 folds): a cell has one of the folds, got fold {fold}."
        )


@pytest.mark.parametrize("fields", [{}, {"folds": 4}, {"shots": 1}, {"train_examples": 100}])
def test_splits_that_were_exported_come_back_as_they_were_drawn(
    tmp_path: Path, fields: dict[str, object]
) -> None:
    cache = ArtifactCache(tmp_path / "cache", run_scope="tests")
    spec = DatasetSpec.model_validate({"name": "digits", **fields})
    path = tmp_path / "digits.json"
    write_split_file(path, export_splits(spec, split_seed=5, seeds=(0, 2), cache=cache))
    fixed = DatasetSpec(name="digits", folds=spec.folds, splits=str(path))
    dataset = dataset_source("digits").load(spec, cache)
    for seed in (0, 2):
        for fold in range(4) if spec.folds else (None,):
            draw = Draw(5, seed, fold, needs_val=spec.shots is None)
            drawn, read = (split_dataset(dataset, each, draw) for each in (spec, fixed))
            for (name, rows), (again, same) in zip(drawn.items(), read.items(), strict=True):
                assert name == again
                np.testing.assert_array_equal(rows, same)


def test_file_names_are_plain_and_no_two_are_alike() -> None:
    specs = [
        DatasetSpec(name="digits", shots=5),
        DatasetSpec(name="digits", shots=5, train_examples=9),
        DatasetSpec(name="folder:../../etc/photos"),
        DatasetSpec(name="torchvision/DTD"),
    ]
    assert file_names(specs) == [
        "digits-5-shots.json",
        "digits-5-shots-2.json",
        "folder-..-..-etc-photos.json",
        "torchvision-DTD.json",
    ]
