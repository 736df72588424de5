"""Data with several labels per example is refused, wherever it comes from."""

import numpy as np
import pytest

from bench.artifacts import ArtifactCache
from bench.datasets.raw import assemble_dataset
from bench.datasets.torchvision import TorchvisionSource
from bench.datasets.torchvision_sets import OTHER_TASKS, SETS
from bench.errors import DatasetError, SuiteError
from bench.interfaces import Examples
from bench.spec import DatasetSpec
from bench.suite import load_suite

SINGLE = (
    "bench scores single-label classification: each example has exactly one class. "
    "For one attribute of several, make a dataset whose classes are its values."
)


def test_a_torchvision_set_of_another_task_is_one_located_problem(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: s\nbackbones: [plain/pixels]\nstrategies: [linear_probe]\n"
        "datasets:\n  - torchvision/CelebA\n  - {name: torchvision/VOCDetection, image_size: 32}\n"
    )
    with pytest.raises(SuiteError) as caught:
        load_suite(path)
    assert caught.value.problems == (
        f"{path}:5: torchvision/CelebA has 40 attributes per image, and {SINGLE}",
        f"{path}:6: torchvision/VOCDetection has several objects per image, and {SINGLE}",
    )


def test_such_a_set_is_refused_by_its_source_too(tmp_path):
    with pytest.raises(DatasetError, match="40 attributes per image, and bench scores single"):
        TorchvisionSource().load(
            DatasetSpec(name="torchvision/CelebA"), ArtifactCache(tmp_path / "cache")
        )


def test_sets_of_other_tasks_exist_in_torchvision_and_are_not_offered():
    from torchvision import datasets

    assert all(hasattr(datasets, name) for name in OTHER_TASKS)
    assert not set(OTHER_TASKS) & {listed.class_name for listed in SETS.values()}


def test_a_matrix_of_labels_is_refused_by_name_and_shape():
    examples = Examples(
        ids=("a", "b"),
        labels=np.zeros((2, 14), dtype=np.int64),
        contents=("1", "2"),
        read=lambda position: "",
    )
    with pytest.raises(DatasetError) as caught:
        assemble_dataset("npz:x", ["0", "1"], {"train": examples})
    assert str(caught.value) == f"npz:x: labels of train have shape (2, 14), and {SINGLE}"
