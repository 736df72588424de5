"""``folder:`` on real JPEGs: layouts, damage, odd images, and what a second run reads."""

import os
import re
import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.artifacts import ArtifactCache
from bench.datasets.drawing import Draw
from bench.datasets.folder import FolderSource
from bench.datasets.images import UNREADABLE, open_rgb, unreadable_reason
from bench.datasets.prepare import PreparedData, prepare_data
from bench.datasets.tree import scan_tree
from bench.errors import DatasetError
from bench.pixels import decode_image, to_rgb
from bench.record import Preprocessing
from bench.spec import DatasetSpec
from tests.training import seeing

PLAIN = Preprocessing(image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
SHADES = np.random.default_rng(0)


def save_jpegs(folder: Path, count: int, shade: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = SHADES.integers(0, 100, (36, 48, 3), dtype=np.uint8) + np.uint8(shade)
        Image.fromarray(pixels).save(folder / f"{index:03d}.jpg", quality=90)


@pytest.fixture(scope="module")
def ten_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ten")
    for number in range(10):
        save_jpegs(root / f"class_{number}", 20, number * 15)
    whole = (root / "class_3" / "004.jpg").read_bytes()
    (root / "class_3" / "004.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "class_7" / "011.jpg").write_bytes(b"this is no image")
    return root


@pytest.fixture(scope="module")
def split_folders(ten_classes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("split")
    for number in range(10):
        for part, indices in (
            ("train", range(12)),
            ("valid", range(12, 15)),
            ("test", range(15, 20)),
        ):
            target = root / part / f"class_{number}"
            target.mkdir(parents=True)
            for index in indices:
                shutil.copy(ten_classes / f"class_{number}" / f"{index:03d}.jpg", target)
    return root


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ArtifactCache]:
    yield ArtifactCache(tmp_path / "cache")


def prepare(root: Path | str, cache: ArtifactCache, **changes: object) -> PreparedData:
    spec = DatasetSpec(name=f"folder:{root}", **{"max_corrupt_fraction": 0.02, **changes})
    return prepare_data(spec, backbone=seeing(PLAIN), draw=Draw(0, 0, needs_val=True), cache=cache)


def test_class_folders_give_three_drawn_splits_without_the_corrupt(
    ten_classes: Path, cache: ArtifactCache
) -> None:
    data = prepare(ten_classes, cache)
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (126, 32, 40)
    assert data.info.class_names == tuple(f"class_{number}" for number in range(10))
    assert data.info.num_corrupt == 2
    assert data.info.corrupt == ("class_3/004.jpg", "class_7/011.jpg")
    per_class = [sum(counts) for counts in zip(*_class_counts(data), strict=True)]
    assert per_class == [20, 20, 20, 19, 20, 20, 20, 19, 20, 20]
    for id_, label in zip(data.train.ids, data.train.labels, strict=True):
        assert id_.startswith(f"class_{label}/")


def _class_counts(data: PreparedData) -> list[tuple[int, ...]]:
    return [split.class_counts for split in data.info.splits.values()]


def test_split_folders_are_kept_as_they_are(split_folders: Path, cache: ArtifactCache) -> None:
    data = prepare(split_folders, cache)
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (118, 30, 50)
    assert set(data.info.corrupt) == {"train/class_3/004.jpg", "train/class_7/011.jpg"}
    assert all(id_.startswith("valid/") for id_ in data.val.ids)
    assert all(id_.startswith("test/") for id_ in data.test.ids)
    assert data.info.majority_accuracy == 0.1


@pytest.mark.parametrize(
    "names", [("Train", "Test"), ("training", "testing"), ("TRAIN", "Dev", "test")]
)
def test_split_folders_are_known_in_any_case_and_spelling(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    for name, label in product(names, ("cat", "dog")):
        folder = tmp_path / name / label
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "a.png")
    tree = scan_tree(tmp_path)
    assert tree.class_names == ("cat", "dog")
    assert len(tree.files) == len(names)


def test_sixteen_bit_netpbm_is_scaled_like_other_sixteen_bit_grey(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 65535\n" + bytes([0x80, 0x00, 0xFF, 0xFF]))
    with Image.open(tmp_path / "a.pgm") as image:
        assert np.asarray(to_rgb(image))[0, :, 0].tolist() == [128, 255]


def test_a_row_of_the_pool_is_the_image_of_its_id(
    split_folders: Path, cache: ArtifactCache
) -> None:
    data = prepare(split_folders, cache)
    for split in (data.train, data.val, data.test):
        assert split is not None
        images = split.pool.gather(split.rows[:3])
        assert images.shape == (3, 32, 32, 3)
        for id_, image in zip(split.ids[:3], images, strict=True):
            expected = decode_image(open_rgb((split_folders / id_).read_bytes()), PLAIN)
            assert (image == expected).all()
    assert (data.example() == data.train.pool.gather(data.train.rows[:1])[0]).all()


def test_more_corrupt_than_allowed_is_refused_by_name(
    ten_classes: Path, cache: ArtifactCache
) -> None:
    message = (
        f"{ten_classes}: 2 of 200 examples cannot be read, more than max_corrupt_fraction 0.005 "
        "allows: class_3/004.jpg (image file is truncated"
    )
    with pytest.raises(DatasetError, match=re.escape(message)) as caught:
        prepare(ten_classes, cache, max_corrupt_fraction=0.005)
    assert "class_7/011.jpg (not an image)" in str(caught.value)


def test_a_second_run_reads_no_image_file(
    ten_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(ten_classes, ArtifactCache(tmp_path / "cache"))
    pixels = first.train.pool.gather(first.train.rows)

    def refuse(path: Path) -> bytes:
        raise AssertionError(f"read again: {path}")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    again = ArtifactCache(tmp_path / "cache")
    second = prepare(ten_classes, again)
    assert (second.train.pool.gather(second.train.rows) == pixels).all()
    assert second.info == first.info
    assert not any(use.built for use in again.ledger.uses())
    assert {use.kind for use in again.ledger.uses()} == {"files", "images"}
    with pytest.raises(AssertionError, match="read again"):
        second.example()


def test_the_fingerprint_follows_content_and_not_place(ten_classes: Path, tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path / "cache")
    root = tmp_path / "copy"
    shutil.copytree(ten_classes, root)
    before = prepare(ten_classes, cache).info.fingerprint
    assert not set(prepare(root, cache).train.ids) - set(prepare(ten_classes, cache).train.ids)
    assert prepare(root, cache).info.fingerprint == before
    shutil.copy(root / "class_0" / "001.jpg", root / "class_0" / "000.jpg")
    assert prepare(root, cache).info.fingerprint != before


def test_a_file_in_two_splits_is_counted_as_a_duplicate(
    split_folders: Path, tmp_path: Path
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(split_folders, root)
    shutil.copy(root / "train/class_1/001.jpg", root / "test/class_1/copy.jpg")
    assert prepare(root, ArtifactCache(tmp_path / "cache")).info.num_duplicates == 1


def test_a_file_damaged_after_the_check_is_found_by_the_next_run(
    ten_classes: Path, tmp_path: Path
) -> None:
    root, cache = tmp_path / "copy", ArtifactCache(tmp_path / "cache")
    shutil.copytree(ten_classes, root)
    assert prepare(root, cache).info.num_corrupt == 2
    (root / "class_0/000.jpg").write_bytes((root / "class_0/000.jpg").read_bytes()[:-200])
    (root / "class_0/001.jpg").unlink()
    (root / "class_0/001.jpg").symlink_to("nowhere.jpg")
    (root / "class_0/002.jpg").write_bytes(b"")
    found = prepare(root, cache, max_corrupt_fraction=0.1).info
    assert set(found.corrupt[:3]) == {f"class_0/00{index}.jpg" for index in range(3)}
    with pytest.raises(DatasetError, match=r"001\.jpg \(missing\), .*002\.jpg \(empty file\)"):
        prepare(root, cache, max_corrupt_fraction=0)


def test_a_file_that_vanishes_before_decoding_is_named(ten_classes: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(ten_classes, root)
    data = prepare(root, ArtifactCache(tmp_path / "cache"))
    (root / data.train.ids[5]).unlink()
    message = f"{data.train.ids[5]} cannot be decoded: .*It could when the dataset was checked"
    with pytest.raises(DatasetError, match=message):
        data.train.pool.gather(data.train.rows[:10])


def test_shots_and_samples_share_the_pool_of_the_whole(
    ten_classes: Path, cache: ArtifactCache
) -> None:
    whole, few = prepare(ten_classes, cache), prepare(ten_classes, cache, shots=2)
    assert few.train.pool.digest == whole.train.pool.digest
    assert few.info.splits["train"].class_counts == (2,) * 10
    assert few.test.ids == whole.test.ids
    with pytest.raises(DatasetError, match=r"class 'class_0' has 16 examples for shots: 17"):
        prepare(ten_classes, cache, shots=17)


def test_a_home_path_is_expanded(
    ten_classes: Path, cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(ten_classes.parent))
    assert len(prepare(f"~/{ten_classes.name}", cache).test) == 40


def test_nested_and_hidden_files_and_links(tmp_path: Path) -> None:
    root = tmp_path / "data"
    save_jpegs(root / "cats" / "indoor" / "2024", 5, 10)
    save_jpegs(root / "dogs", 5, 90)
    save_jpegs(root / ".thumbnails", 5, 10)
    (root / "dogs" / "._000.jpg").write_bytes(b"resource fork")
    (root / "dogs" / "notes.txt").write_text("not an image by its name")
    (root / "cats" / "up").symlink_to(root)
    (root / "cats" / "self").symlink_to(root / "cats")
    located = FolderSource().locate(DatasetSpec(name=f"folder:{root}"))
    names = [path.relative_to(root).as_posix() for path in located.files]
    assert [name for name in names if name.startswith("dogs")] == [
        f"dogs/{index:03d}.jpg" for index in range(5)
    ]
    assert "cats/indoor/2024/000.jpg" in names
    assert not any("/self/" in name for name in names)
    assert located.missing == ()


def test_transparency_lies_on_white_and_orientation_is_applied(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert to_rgb(clear).getpixel((0, 0)) == (255, 255, 255)
    half = Image.new("LA", (4, 4), (0, 128))
    assert to_rgb(half).getpixel((1, 1)) == (127, 127, 127)
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 0, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=1)
    image = open_rgb((tmp_path / "p.png").read_bytes())
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(10, 20, 30), (255, 255, 255)]
    wide = Image.new("RGB", (4, 2))
    exif = wide.getexif()
    exif[0x0112] = 6
    wide.save(tmp_path / "turned.jpg", exif=exif)
    assert open_rgb((tmp_path / "turned.jpg").read_bytes()).size == (2, 4)


def test_sixteen_bit_grey_is_scaled_and_unbounded_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 32768, dtype=np.uint16)).save(tmp_path / "deep.png")
    assert open_rgb((tmp_path / "deep.png").read_bytes()).getpixel((0, 0)) == (128, 128, 128)
    Image.fromarray(np.full((2, 2), 0.5, dtype=np.float32)).save(tmp_path / "float.tif")
    data = (tmp_path / "float.tif").read_bytes()
    assert unreadable_reason(data) == "pixels of mode F have no defined range"
    with pytest.raises(UNREADABLE):
        open_rgb(data)


def test_decoding_is_resize_then_centre_crop_but_for_the_last_bit() -> None:
    pixels = SHADES.integers(0, 256, (75, 100, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    wanted = Preprocessing(image_size=56, mean=(0.5,) * 3, std=(0.5,) * 3, crop_fraction=0.875)
    plain = image.resize((85, 64), Image.Resampling.BICUBIC).crop((14, 4, 70, 60))
    difference = np.abs(decode_image(image, wanted).astype(int) - np.asarray(plain).astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01
    nearest = wanted.model_copy(update={"interpolation": "nearest"})
    plain = image.resize((85, 64), Image.Resampling.NEAREST).crop((14, 4, 70, 60))
    assert (decode_image(image, nearest) == np.asarray(plain)).all()


def _make(root: Path, *folders: str) -> None:
    for folder in folders:
        save_jpegs(root / folder, 1, 50)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ((), "holds no class folders. Put the images of each class"),
        (("",), "holds images but no class folders"),
        (("cat",), "holds one class only, 'cat'"),
        (("train/cat",), "train holds one class only, 'cat'"),
        (
            ("train/cat", "train/dog", "test/cow"),
            "cow is a class that train lacks. Train has: cat, dog",
        ),
        (("test/cat", "val/cat"), "holds test and val but no train folder"),
        (("train/a", "train/b", "val/a", "valid/a"), "holds two folders for val: val and valid"),
        (
            ("train/a", "train/b", "test/a", "extra"),
            "split folders (test, train) beside others (extra)",
        ),
        (
            ("train/a", "train/b", "eval/a", "eval/b"),
            "train, eval hold folders of the same names, so they look like splits, and 'eval'",
        ),
    ],
)
def test_an_unusable_layout_is_one_clear_message(
    tmp_path: Path, folders: tuple[str, ...], message: str
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    _make(root, *folders)
    spec = DatasetSpec(name=f"folder:{root}")
    source = FolderSource()
    assert message in (source.check(spec) or "")
    (missing,) = source.locate(spec).missing
    assert message in missing.how and not missing.downloadable
    with pytest.raises(DatasetError, match=re.escape(message)):
        source.load(spec, ArtifactCache(tmp_path / "cache"))


def test_empty_class_folders_missing_folders_and_files_are_told(tmp_path: Path) -> None:
    source = FolderSource()
    _make(tmp_path, "cat", "dog")
    (tmp_path / "emu").mkdir()

    def check(path: Path) -> str:
        return source.check(DatasetSpec(name=f"folder:{path}")) or ""

    assert f"class folder {tmp_path / 'emu'} holds no images" in check(tmp_path)
    (tmp_path / "emu").rmdir()
    assert check(tmp_path) == ""
    assert "does not exist. Give the folder" in check(tmp_path / "no")
    assert "is not a folder" in check(tmp_path / "cat" / "000.jpg")


@pytest.mark.parametrize("name", ["folder/photos", "folder:", "folder: "])
def test_a_name_that_is_no_place_is_refused(name: str) -> None:
    said = "names no place: write folder: and a place, as folder:~/photos."
    assert said in (FolderSource().check(DatasetSpec(name=name)) or "")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    _make(tmp_path, "train", "car", "plane")
    located = FolderSource().locate(DatasetSpec(name=f"folder:{tmp_path}"))
    assert len(located.files) == 3


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads anything")
def test_a_forbidden_file_counts_until_it_is_allowed(ten_classes: Path, tmp_path: Path) -> None:
    root, cache = tmp_path / "copy", ArtifactCache(tmp_path / "cache")
    shutil.copytree(ten_classes, root)
    (root / "class_0/000.jpg").chmod(0)
    assert prepare(root, cache).info.num_corrupt == 3
    (root / "class_0/000.jpg").chmod(0o600)
    assert prepare(root, cache).info.num_corrupt == 2


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    _make(tmp_path, "cat", "dog")
    (tmp_path / "cat" / "000.jpg").rename(os.fsdecode(os.fsencode(tmp_path / "cat") + b"/\xff.jpg"))
    problem = FolderSource().check(DatasetSpec(name=f"folder:{tmp_path}")) or ""
    assert "is not UTF-8, so it cannot be an id. Rename it." in problem
