"""``torchvision/…``: each way its sets are stored, written here in the publisher's layout."""

import bz2
import gc
import gzip
import hashlib
import json
import pickle
import socket
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image
from scipy.io import savemat

from bench.artifacts import ArtifactCache
from bench.datasets.drawing import Draw
from bench.datasets.prepare import prepare_data
from bench.datasets.torchvision import TorchvisionSource
from bench.datasets.torchvision_sets import SETS
from bench.datasets.unfinished import marker_path, unfinished
from bench.errors import DatasetError
from bench.interfaces import RawDataset
from bench.record import Preprocessing, Progress
from bench.spec import DatasetSpec
from bench.transfer.tracking import silent
from tests.hub_server import Kind, StandInHub, standing_in
from tests.training import seeing

PIXELS = np.random.default_rng(0)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def load(name: str, root: Path) -> RawDataset:
    spec = DatasetSpec(name=f"torchvision/{name}")
    assert TorchvisionSource().locate(spec).missing == ()
    return TorchvisionSource().load(spec, ArtifactCache(root.parent / "cache"))


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(path)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def idx(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(bytes((0, 0, 8, values.ndim)) + sizes + values.tobytes())


def fashion_mnist(root: Path) -> None:
    for part, count in (("train", 20), ("t10k", 10)):
        raw = root / "FashionMNIST" / "raw"
        images = PIXELS.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        idx(raw / f"{part}-images-idx3-ubyte", images)
        idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10)


def emnist_letters(root: Path) -> None:
    for part, count in (("train", 52), ("test", 26)):
        prefix = root / "EMNIST" / "raw" / f"emnist-letters-{part}"
        images = PIXELS.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        idx(Path(f"{prefix}-images-idx3-ubyte"), images)
        idx(Path(f"{prefix}-labels-idx1-ubyte"), np.arange(count, dtype=np.uint8) % 26 + 1)


def usps(root: Path) -> None:
    root.mkdir()
    for name, count in (("usps.bz2", 20), ("usps.t.bz2", 10)):
        lines = (
            f"{index % 10 + 1} " + " ".join(f"{place}:0.5" for place in range(1, 257))
            for index in range(count)
        )
        (root / name).write_bytes(bz2.compress("\n".join(lines).encode()))


def eurosat(root: Path) -> None:
    for kind in ("Forest", "River"):
        for index in range(5):
            image(root / "eurosat" / "2750" / kind / f"{kind}_{index}.jpg")


def dtd(root: Path) -> None:
    folder = root / "dtd" / "dtd"
    for part in ("train", "val", "test"):
        names = [f"{kind}/{kind}_{part}.jpg" for kind in ("banded", "dotted")]
        text(folder / "labels" / f"{part}1.txt", "\n".join(names))
        for name in names:
            image(folder / "images" / name)


def pets(root: Path) -> None:
    for part in ("trainval", "test"):
        lines = []
        for label, breed in enumerate(("great_dane", "tabby"), 1):
            for index in range(3):
                image_id = f"{breed}_{len(part)}{index}"
                lines.append(f"{image_id} {label} 1 1")
                image(root / "oxford-iiit-pet" / "images" / f"{image_id}.jpg")
        text(root / "oxford-iiit-pet" / "annotations" / f"{part}.txt", "\n".join(lines))


def gtsrb(root: Path) -> None:
    folder = root / "gtsrb" / "GTSRB"
    rows = ["Filename;ClassId"]
    for label in range(3):
        image(folder / "Training" / f"{label:05d}" / "0.ppm")
        image(folder / "Final_Test" / "Images" / f"{label}.ppm")
        rows.append(f"{label}.ppm;{label}")
    text(root / "gtsrb" / "GT-final_test.csv", "\n".join(rows))


def imagenette(root: Path) -> None:
    for part in ("train", "val"):
        for kind in ("n01440764", "n02102040"):
            image(root / "imagenette2-160" / part / kind / f"{part}.JPEG")


def food101(root: Path) -> None:
    for part in ("train", "test"):
        listed = {kind: [f"{kind}/{part}{index}" for index in range(2)] for kind in ("pho", "pie")}
        text(root / "food-101" / "meta" / f"{part}.json", json.dumps(listed))
        for names in listed.values():
            for name in names:
                image(root / "food-101" / "images" / f"{name}.jpg")


def aircraft(root: Path) -> None:
    folder = root / "fgvc-aircraft-2013b" / "data"
    text(folder / "families.txt", "A320\nBoeing 737\n")
    for part in ("train", "val", "test"):
        ids = {f"{part}0": "A320", f"{part}1": "Boeing 737"}
        lines = "\n".join(f"{image_id} {family}" for image_id, family in ids.items())
        text(folder / f"images_family_{part}.txt", lines)
        for image_id in ids:
            image(folder / "images" / f"{image_id}.jpg")


def country211(root: Path) -> None:
    for part in ("train", "valid", "test"):
        for kind in ("AD", "ZW"):
            image(root / "country211" / part / kind / "0.jpg")


def rendered_sst2(root: Path) -> None:
    for part in ("train", "valid", "test"):
        for kind in ("negative", "positive"):
            image(root / "rendered-sst2" / part / kind / "0.png")


def sun397(root: Path) -> None:
    text(root / "SUN397" / "ClassName.txt", "/a/abbey\n/b/bar/indoor\n")
    for folder in ("a/abbey", "b/bar/indoor"):
        for index in range(4):
            image(root / "SUN397" / folder / f"sun_{index}.jpg")


def caltech101(root: Path) -> None:
    for kind in ("ant", "bass", "BACKGROUND_Google"):
        for index in range(1, 5):
            image(root / "caltech101" / "101_ObjectCategories" / kind / f"image_{index:04d}.jpg")


def caltech256(root: Path) -> None:
    for number, kind in enumerate(("001.ak47", "002.flag"), 1):
        for index in range(1, 5):
            name = f"{number:03d}_{index:04d}.jpg"
            image(root / "caltech256" / "256_ObjectCategories" / kind / name)


def stanford_cars(root: Path) -> None:
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    names = np.array(["Audi", "Fiat"], dtype=object)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})
    kind = [("fname", object), ("class", np.uint8)]
    rows = np.array([("0.jpg", 1), ("1.jpg", 2), ("2.jpg", 1), ("3.jpg", 2)], dtype=kind)
    savemat(folder / "devkit" / "cars_train_annos.mat", {"annotations": rows})
    savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": rows})
    for index in range(4):
        image(folder / "cars_train" / f"{index}.jpg")
        image(folder / "cars_test" / f"{index}.jpg")


LAYOUTS: list[tuple[str, Callable[[Path], None], dict[str, int], tuple[str, ...]]] = [
    ("FashionMNIST", fashion_mnist, {"train": 20, "test": 10}, ("T-shirt/top", "Ankle boot")),
    ("EMNIST-letters", emnist_letters, {"train": 52, "test": 26}, ("a", "z")),
    ("USPS", usps, {"train": 20, "test": 10}, ("0", "9")),
    ("EuroSAT", eurosat, {"train": 10}, ("Forest", "River")),
    ("DTD", dtd, {"train": 2, "val": 2, "test": 2}, ("banded", "dotted")),
    ("OxfordIIITPet", pets, {"train": 6, "test": 6}, ("Great Dane", "Tabby")),
    ("GTSRB", gtsrb, {"train": 3, "test": 3}, ("0", "2")),
    ("Imagenette-160px", imagenette, {"train": 2, "test": 2}, ("tench", "English springer")),
    ("Food101", food101, {"train": 4, "test": 4}, ("pho", "pie")),
    ("FGVCAircraft-family", aircraft, {"train": 2, "val": 2, "test": 2}, ("A320", "Boeing 737")),
    ("Country211", country211, {"train": 2, "val": 2, "test": 2}, ("AD", "ZW")),
    ("RenderedSST2", rendered_sst2, {"train": 2, "val": 2, "test": 2}, ("negative", "positive")),
    ("SUN397", sun397, {"train": 8}, ("abbey", "bar/indoor")),
    ("Caltech101", caltech101, {"train": 8}, ("ant", "bass")),
    ("Caltech256", caltech256, {"train": 8}, ("001.ak47", "002.flag")),
    ("StanfordCars", stanford_cars, {"train": 4, "test": 4}, ("Audi", "Fiat")),
]


@pytest.mark.parametrize(
    ("name", "write", "sizes", "ends"), LAYOUTS, ids=[row[0] for row in LAYOUTS]
)
def test_a_set_in_its_publishers_layout_is_read_whole(
    root: Path,
    name: str,
    write: Callable[[Path], None],
    sizes: dict[str, int],
    ends: tuple[str, ...],
) -> None:
    write(root)
    dataset = load(name, root)
    assert {part: len(examples.ids) for part, examples in dataset.parts.items()} == sizes
    assert (dataset.class_names[0], dataset.class_names[-1]) == ends
    for examples in dataset.parts.values():
        assert set(examples.labels.tolist()) == set(range(len(dataset.class_names)))
        assert all(examples.read(position).mode == "RGB" for position in range(len(examples.ids)))
    assert dataset.num_corrupt == 0
    assert load(name, root).fingerprint == dataset.fingerprint


def test_images_and_labels_belong_to_their_ids(root: Path) -> None:
    sun397(root)
    examples = load("SUN397", root).parts["train"]
    assert list(examples.ids) == sorted(examples.ids)
    for position, (id_, label) in enumerate(zip(examples.ids, examples.labels, strict=True)):
        assert ("abbey" in id_) == (label == 0)
        expected = np.asarray(Image.open(root / id_))
        assert (np.asarray(examples.read(position)) == expected).all()
        assert examples.encoded is not None
        assert examples.encoded(position) == (root / id_).read_bytes()


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    from torchvision.datasets import CIFAR10

    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    pixels = PIXELS.integers(0, 256, (60, 3, 32, 32), dtype=np.uint8)
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    for number, name in enumerate(names):
        batch = {"data": pixels[number * 10 :][:10].reshape(10, -1), "labels": list(range(10))}
        (folder / name).write_bytes(pickle.dumps(batch))
    labels = ["airplane", *"bcdefghij"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": labels}))
    # The published checksums are of the published pixels.
    monkeypatch.setattr(CIFAR10, "train_list", [[name, None] for name in names[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", None]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": None})
    return pixels


def test_cifar10_gives_its_own_pixels_and_splits(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = write_cifar10(root, monkeypatch)
    data = prepare_data(
        DatasetSpec(name="torchvision/CIFAR10"),
        backbone=seeing(Preprocessing(image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)),
        draw=Draw(0, 0, needs_val=True),
        cache=ArtifactCache(root.parent / "cache"),
    )
    assert data.val is not None
    assert [len(split) for split in (data.train, data.val, data.test)] == [40, 10, 10]
    assert data.info.class_names[0] == "airplane"
    assert data.test.ids[3] == "test/000003"
    assert (data.test.pool.gather(data.test.rows) == pixels[50:].transpose(0, 2, 3, 1)).all()
    assert data.example().shape == (32, 32, 3)


def test_svhn_stored_as_channels_first_is_turned(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import SVHN

    root.mkdir()
    pixels = PIXELS.integers(0, 256, (32, 32, 3, 10), dtype=np.uint8)
    for part in ("train", "test"):
        labels = np.arange(1, 11, dtype=np.uint8)[:, None]
        savemat(root / f"{part}_32x32.mat", {"X": pixels, "y": labels})
    lists = {part: [url, file, None] for part, (url, file, _) in SVHN.split_list.items()}
    monkeypatch.setattr(SVHN, "split_list", lists)
    examples = load("SVHN", root).parts["test"]
    assert examples.labels.tolist() == [*range(1, 10), 0]
    assert (np.asarray(examples.read(4)) == pixels[..., 4]).all()


def test_flowers102_keeps_its_three_splits(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import Flowers102

    folder = root / "flowers-102"
    for index in range(1, 307):
        image(folder / "jpg" / f"image_{index:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": np.arange(306) % 102 + 1})
    ids = {"trnid": np.arange(1, 103), "valid": np.arange(103, 205), "tstid": np.arange(205, 307)}
    savemat(folder / "setid.mat", ids)
    files = {key: (name, None) for key, (name, _) in Flowers102._file_dict.items()}
    monkeypatch.setattr(Flowers102, "_file_dict", files)
    dataset = load("Flowers102", root)
    assert {part: len(examples.ids) for part, examples in dataset.parts.items()} == {
        "train": 102,
        "val": 102,
        "test": 102,
    }
    assert dataset.class_names[:2] == ("pink primrose", "hard-leaved pocket orchid")
    assert len(set(dataset.class_names)) == 102


def test_a_corrupt_or_missing_image_is_named(root: Path) -> None:
    food101(root)
    (root / "food-101/images/pho/train0.jpg").write_bytes(b"no image")
    (root / "food-101/images/pie/test1.jpg").unlink()
    message = "2 of 8 examples cannot be read, .*pho/train0.jpg .not an image.*test1.jpg .missing"
    with pytest.raises(DatasetError, match=message):
        load("Food101", root)


def test_every_listed_class_exists_and_takes_the_listed_arguments() -> None:
    import inspect

    from torchvision import datasets

    for name, listed in SETS.items():
        factory = getattr(datasets, listed.class_name)
        for arguments in listed.parts.values():
            inspect.signature(factory).bind("root", **arguments)
            accepted = [
                key
                for base in factory.__mro__
                if "__init__" in vars(base)
                for key in inspect.signature(base.__init__).parameters
            ]
            assert set(arguments) <= set(accepted), name
            assert not listed.downloadable or "download" in accepted, name


def test_names_are_sorted_and_prefixed() -> None:
    names = TorchvisionSource().names()
    assert list(names) == sorted(names)
    assert {"torchvision/CIFAR10", "torchvision/Flowers102", "torchvision/EuroSAT"} <= set(names)


def test_what_is_missing_says_what_how_and_how_much(root: Path) -> None:
    source = TorchvisionSource()
    (cifar,) = source.locate(DatasetSpec(name="torchvision/CIFAR10")).missing
    assert cifar.what == "data of torchvision/CIFAR10"
    assert cifar.num_bytes == 170_498_071 and cifar.downloadable
    assert f"CIFAR10 as D; D('{root}', train=True, download=True)" in cifar.how
    (cars,) = source.locate(DatasetSpec(name="torchvision/StanfordCars")).missing
    assert not cars.downloadable
    assert f"put it there by hand: {root}/stanford_cars/devkit" in cars.how
    with pytest.raises(DatasetError, match="StanfordCars is missing: torchvision can no longer"):
        source.load(DatasetSpec(name="torchvision/StanfordCars"), ArtifactCache(root))
    with pytest.raises(DatasetError, match=r"unknown dataset 'torchvision/CIFAR11'. List them"):
        source.locate(DatasetSpec(name="torchvision/CIFAR11"))


def test_no_network_is_one_message_and_can_be_tried_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    spec = DatasetSpec(name="torchvision/DTD")
    for _ in range(2):
        with pytest.raises(DatasetError, match=r"torchvision/DTD cannot be downloaded: URLError"):
            TorchvisionSource().load(spec, ArtifactCache(root))


def test_a_set_that_is_not_whole_says_so(root: Path) -> None:
    dtd(root)
    (root / "dtd/dtd/labels/val1.txt").unlink()
    with pytest.raises(DatasetError, match=r"is not whole: FileNotFoundError: .*val1\.txt"):
        load("DTD", root)


@pytest.fixture
def served(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    """A server that has FashionMNIST as its publisher packs it, and torchvision pointed to it."""
    fashion_mnist(tmp_path / "publisher")
    resources = []
    with standing_in() as server:
        for path in sorted((tmp_path / "publisher" / "FashionMNIST" / "raw").iterdir()):
            packed = gzip.compress(path.read_bytes())
            server.files[f"/{path.name}.gz"] = packed
            resources.append((f"{path.name}.gz", hashlib.md5(packed).hexdigest()))
        monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [f"{server.url}/"])
        monkeypatch.setattr(torchvision.datasets.FashionMNIST, "resources", resources)
        monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "1")
        yield server


FASHION = DatasetSpec(name="torchvision/FashionMNIST")


def test_a_set_is_fetched_ahead_says_so_and_loads_without_the_server(
    served: StandInHub, root: Path
) -> None:
    told: list[Progress] = []
    TorchvisionSource().fetch(FASHION, told.append)
    assert [(p.phase, p.item) for p in told] == [("download", "data of torchvision/FashionMNIST")]
    served.seen.clear()
    assert len(load("FashionMNIST", root).parts["train"].ids) == 20
    TorchvisionSource().fetch(FASHION, told.append)
    assert (len(told), served.seen) == (1, [])


@pytest.mark.parametrize("fault", ["hang", "truncate", "wrong", 404, 401, 503])
def test_a_set_that_cannot_be_fetched_is_one_error_and_comes_later_all_the_same(
    served: StandInHub, root: Path, fault: Kind
) -> None:
    served.fail("GET /train-images", fault)
    with pytest.raises(DatasetError, match=r"^data of torchvision/FashionMNIST cannot be do"):
        TorchvisionSource().fetch(FASHION, silent)
    with warnings.catch_warnings():
        # torchvision leaves the answers of a server that refuses to the collector.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    assert TorchvisionSource().locate(FASHION).missing
    served.heal()
    TorchvisionSource().fetch(FASHION, silent)
    assert len(load("FashionMNIST", root).parts["train"].ids) == 20


def test_a_download_that_was_cut_off_is_not_taken_for_whole_and_comes_anew(
    served: StandInHub, root: Path
) -> None:
    fashion_mnist(root)
    raw = root / "FashionMNIST" / "raw"
    (raw / "train-images-idx3-ubyte").write_bytes(b"half")
    packed = "t10k-images-idx3-ubyte.gz"
    (raw / packed).write_bytes(served.files[f"/{packed}"])
    marker_path(root, SETS["FashionMNIST"].paths).touch()
    assert TorchvisionSource().locate(FASHION).missing
    TorchvisionSource().fetch(FASHION, silent)
    assert len(load("FashionMNIST", root).parts["train"].ids) == 20
    assert served.num_gets(packed) == 0, "an archive that is whole is not fetched again"


def test_what_was_there_before_a_download_outlives_its_failure(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine").touch()
    paths = ("set/mine", "set/theirs", "other/folder")

    def unpack_half() -> None:
        with unfinished(tmp_path, paths):
            text(tmp_path / "set" / "theirs" / "1", "half")
            text(tmp_path / "other" / "folder" / "1", "half")
            text(tmp_path / "other" / "set.tgz", "an archive")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        unpack_half()
    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert left == ["other/set.tgz", "set/mine"]
