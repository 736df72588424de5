"""``hf/…`` by the `datasets` library: local data, a laid-out hub cache, streams, refusals."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from bench.artifacts import ArtifactCache
from bench.datasets.hf import HubDataSource
from bench.errors import DatasetError
from bench.interfaces import Clip, RawDataset
from bench.spec import DatasetSpec

SOURCE = HubDataSource()
PIXELS = np.random.default_rng(0)
IMAGES = Features({"img": ImageFeature(), "label": ClassLabel(names=["zebra", "ant"])})
TEXTS = Features({"body": Value("string"), "mood": ClassLabel(names=["sad", "glad"])})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ArtifactCache]:
    """A cache of its own, and no network: what is not there is not looked for."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    yield ArtifactCache(tmp_path / "cache")


def encode_png(width: int = 12) -> bytes:
    file = io.BytesIO()
    pixels = PIXELS.integers(0, 255, (9, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def save_parquet(
    folder: Path, features: Features, **splits: Mapping[str, Sequence[object]]
) -> None:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for split, columns in splits.items():
        table = Dataset.from_dict(dict(columns), features=features)
        table.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))


def save_images(folder: Path, **counts: int) -> None:
    splits = {
        split: {
            "img": [{"bytes": encode_png(), "path": None} for _ in range(count)],
            "label": [at % 2 for at in range(count)],
        }
        for split, count in counts.items()
    }
    save_parquet(folder, IMAGES, **splits)


def spec_of(place: Path | str, **fields: object) -> DatasetSpec:
    return DatasetSpec.model_validate({"name": f"hf/{place}", **fields})


def load(place: Path | str, cache: ArtifactCache, **fields: object) -> RawDataset:
    spec = spec_of(place, **fields)
    assert SOURCE.check(spec) is None
    return SOURCE.load(spec, cache)


def refused(place: Path | str, cache: ArtifactCache, **fields: object) -> str:
    with pytest.raises(DatasetError) as caught:
        SOURCE.load(spec_of(place, **fields), cache)
    return str(caught.value)


def names_of(data: RawDataset, part: str) -> list[str]:
    return [data.class_names[label] for label in data.parts[part].labels]


def test_images_in_parquet_have_their_columns_and_splits_by_themselves(
    tmp_path: Path, cache: ArtifactCache
) -> None:
    save_images(tmp_path / "set", train=6, validation=4, test=2)
    data = load(tmp_path / "set", cache)
    assert {part: len(examples.ids) for part, examples in data.parts.items()} == {
        "train": 6,
        "val": 4,
        "test": 2,
    }
    assert data.class_names == ("ant", "zebra")
    assert names_of(data, "val") == ["zebra", "ant", "zebra", "ant"]
    examples = data.parts["test"]
    assert examples.ids == ("test/000000", "test/000001") and examples.modality == "image"
    assert examples.read(1).size == (12, 9)
    assert examples.encoded is not None and examples.encoded(0).startswith(b"\x89PNG")


def test_clips_in_parquet_have_their_column_by_themselves(
    tmp_path: Path, cache: ArtifactCache
) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.array([0.0, 0.5, -0.5]), 8000, format="WAV", subtype="FLOAT")
    features = Features({"sound": Audio(), "label": ClassLabel(names=["x", "y"])})
    cell = {"bytes": file.getvalue(), "path": None}
    rows = [{"sound": cell, "label": label} for label in (0, 1, 0)]
    (tmp_path / "set").mkdir()
    # As the hub stores them; the library itself wants another package to encode clips.
    table = pa.Table.from_pylist(rows, schema=features.arrow_schema)
    pq.write_table(table, tmp_path / "set" / "train.parquet")
    assert SOURCE.modality(spec_of(tmp_path / "set")) == "audio"
    for fields in ({}, {"streaming": 2}):
        examples = load(tmp_path / "set", cache, **fields).parts["train"]
        assert len(examples.ids) == fields.get("streaming", 3)
        clip = examples.read(1)
        assert isinstance(clip, Clip)
        assert (clip.samples.tolist(), clip.sample_rate) == ([0.0, 0.5, -0.5], 8000)


def test_one_parquet_file_is_a_dataset_without_splits(tmp_path: Path, cache: ArtifactCache) -> None:
    save_images(tmp_path / "set", train=4)
    file = next((tmp_path / "set" / "data").iterdir())
    data = load(file, cache)
    assert list(data.parts) == ["train"] and len(data.parts["train"].ids) == 4


def test_a_folder_of_class_folders_gives_images_by_path(
    tmp_path: Path, cache: ArtifactCache
) -> None:
    written = {}
    for split, name in (("train", "cat"), ("train", "dog"), ("test", "cat"), ("test", "dog")):
        file = tmp_path / "photos" / split / name / "0.png"
        file.parent.mkdir(parents=True)
        written[split, name] = encode_png()
        file.write_bytes(written[split, name])
    data = load(tmp_path / "photos", cache)
    test = data.parts["test"]
    assert names_of(data, "test") == ["cat", "dog"] and test.encoded is not None
    assert test.encoded(1) == written["test", "dog"]


def test_texts_of_json_lines_take_a_named_label(tmp_path: Path, cache: ArtifactCache) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for split in ("train", "test"):
        rows = [{"sentence": f"{split} {at}", "stars": at % 3} for at in range(6)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = load(folder, cache, label="stars")
    assert data.class_names == ("0", "1", "2")
    assert data.parts["test"].modality == SOURCE.modality(spec_of(folder)) == "text"
    assert data.parts["test"].read(5) == "test 5"


def test_saved_tables_that_number_their_classes_differently_agree_by_name(
    tmp_path: Path, cache: ArtifactCache
) -> None:
    def table(names: list[str], labels: list[int]) -> Dataset:
        features = Features({"body": Value("string"), "mood": ClassLabel(names=names)})
        return Dataset.from_dict({"body": list("abc"), "mood": labels}, features=features)

    saved = DatasetDict(
        train=table(["sad", "glad", "mad"], [0, 1, 2]),
        test=table(["mad", "sad", "glad"], [0, 1, 2]),
    )
    saved.save_to_disk(tmp_path / "saved")
    data = load(tmp_path / "saved", cache)
    assert names_of(data, "train") == ["sad", "glad", "mad"]
    assert names_of(data, "test") == ["mad", "sad", "glad"]


def test_examples_without_a_label_or_text_count_as_corrupt(
    tmp_path: Path, cache: ArtifactCache
) -> None:
    columns = {"body": ["a", "b", " ", "d", None], "mood": [0, 1, 0, -1, 1]}
    save_parquet(tmp_path / "set", TEXTS, train=columns)
    data = load(tmp_path / "set", cache, max_corrupt_fraction=0.6)
    assert data.corrupt == ("train/000003", "train/000002", "train/000004")
    assert data.parts["train"].ids == ("train/000000", "train/000001")
    assert (
        "3 of 5 examples cannot be read, more than max_corrupt_fraction 0.01 allows: "
        in refused(tmp_path / "set", cache)
    )


def test_a_test_split_of_secret_labels_is_refused_until_another_is_named(
    tmp_path: Path, cache: ArtifactCache
) -> None:
    known = {"body": list("abcd"), "mood": [0, 1, 0, 1]}
    secret = {"body": list("ef"), "mood": [-1, -1]}
    save_parquet(tmp_path / "set", TEXTS, train=known, validation=known, test=secret)
    assert refused(tmp_path / "set", cache) == (
        f"hf/{tmp_path}/set, test: no example has a label. If the published labels are secret, "
        "name a split that has them, as in test: validation."
    )
    data = load(tmp_path / "set", cache, test="validation")
    assert list(data.parts) == ["train", "test"] and len(data.parts["test"].ids) == 4


def test_splits_that_are_not_there_are_named(tmp_path: Path, cache: ArtifactCache) -> None:
    columns = {"body": list("abcd"), "mood": [0, 1, 0, 1]}
    save_parquet(tmp_path / "set", TEXTS, train=columns, test=columns)
    assert refused(tmp_path / "set", cache, val="dev") == (
        f"hf/{tmp_path}/set has no split 'dev' for val. Known: train, test."
    )
    save_parquet(tmp_path / "other", TEXTS, test=columns)
    assert refused(tmp_path / "other", cache) == (
        f"hf/{tmp_path}/other has no split train. Known: test."
    )


def test_several_labels_for_an_example_are_refused(tmp_path: Path, cache: ArtifactCache) -> None:
    features = Features({"body": Value("string"), "labels": List(ClassLabel(names=["x", "y"]))})
    save_parquet(tmp_path / "set", features, train={"body": ["a", "b"], "labels": [[0], [0, 1]]})
    said = refused(tmp_path / "set", cache)
    assert said.startswith(
        f"hf/{tmp_path}/set, train: column 'labels' holds lists of labels (List(ClassLabel(names="
    )
    assert "multi-label, and bench scores single-label classification: each example has" in said


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "has several columns that can be the input: title, body. Say which one with text:"),
        ({"text": "bdy"}, "has no column 'bdy'. Did you mean 'body'? Known: title, body, mood, n"),
        ({"text": "n"}, ": column 'n' holds no text: Value('int64')."),
        ({"text": "body", "label": "modo"}, "has no column 'modo'. Did you mean 'mood'? Known: "),
    ],
)
def test_columns_that_cannot_be_told_are_asked_for(
    tmp_path: Path, cache: ArtifactCache, fields: dict[str, str], said: str
) -> None:
    features = Features({"title": Value("string"), **TEXTS, "n": Value("int64")})
    columns = {"title": ["a", "b"], "body": ["c", "d"], "mood": [0, 1], "n": [1, 2]}
    save_parquet(tmp_path / "set", features, train=columns)
    assert said in refused(tmp_path / "set", cache, **fields)
    data = load(tmp_path / "set", cache, text="body")
    assert data.parts["train"].read(0) == "c"


def test_two_columns_of_classes_are_asked_for(tmp_path: Path, cache: ArtifactCache) -> None:
    features = Features({**TEXTS, "tone": ClassLabel(names=["low", "high"])})
    save_parquet(
        tmp_path / "set", features, train={"body": ["a", "b"], "mood": [0, 1], "tone": [1, 0]}
    )
    assert refused(tmp_path / "set", cache) == (
        f"hf/{tmp_path}/set, train has several columns of classes: mood, tone. Say which one with "
        "label:. Known: body, mood, tone."
    )
    assert load(tmp_path / "set", cache, label="tone").class_names == ("high", "low")


def lay_out_hub(root: Path, repo: str, content: Path, *, revision: str = "main") -> str:
    """Copy a folder to where the hub's client would have put a repository; returns its commit."""
    commit = ("ab" if revision == "main" else "cd") * 20
    folder = root / f"datasets--{repo.replace('/', '--')}"
    shutil.copytree(content, folder / "snapshots" / commit)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / revision).write_text(commit)
    return commit


def test_a_repository_in_the_hub_s_cache_needs_no_network(
    tmp_path: Path, cache: ArtifactCache
) -> None:
    save_images(tmp_path / "content", train=4, test=2)
    lay_out_hub(tmp_path / "hub", "someone/animals", tmp_path / "content")
    spec = spec_of("someone/animals")
    assert not SOURCE.locate(spec).missing and len(SOURCE.locate(spec).files) == 2
    assert SOURCE.modality(spec) == "image"
    assert len(load("someone/animals", cache).parts["train"].ids) == 4


def test_a_revision_is_the_one_that_is_read(tmp_path: Path, cache: ArtifactCache) -> None:
    for revision, count in (("main", 4), ("v2", 6)):
        save_images(tmp_path / revision, train=count)
        lay_out_hub(tmp_path / "hub", "someone/animals", tmp_path / revision, revision=revision)
    assert len(load("someone/animals", cache).parts["train"].ids) == 4
    assert len(load("someone/animals", cache, revision="v2").parts["train"].ids) == 6
    assert spec_of("someone/animals", revision="v2").label == "hf/someone/animals (v2)"


def test_configurations_of_a_repository_are_chosen_by_name(
    tmp_path: Path, cache: ArtifactCache
) -> None:
    content = tmp_path / "content"
    for name, count in (("big", 6), ("small", 2)):
        columns = {"body": list("abcdef")[:count], "mood": [at % 2 for at in range(count)]}
        (content / name).mkdir(parents=True)
        Dataset.from_dict(columns, features=TEXTS).to_parquet(str(content / name / "train.parquet"))
    configs = [
        {"config_name": name, "data_files": f"{name}/*.parquet"} for name in ("big", "small")
    ]
    (content / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    lay_out_hub(tmp_path / "hub", "someone/moods", content)
    assert len(load("someone/moods", cache, config="small").parts["train"].ids) == 2
    assert "Config name is missing." in refused("someone/moods", cache)
    assert "BuilderConfig 'tiny' not found. Available: ['big', 'small']" in refused(
        "someone/moods", cache, config="tiny"
    )


def test_what_is_not_here_says_how_to_get_it(tmp_path: Path, cache: ArtifactCache) -> None:
    spec = spec_of("someone/absent", revision="v1")
    (lack,) = SOURCE.locate(spec).missing
    command = "hf download --repo-type dataset someone/absent --revision v1"
    assert lack.what == "data of hf/someone/absent" and f"`{command}`" in lack.how
    assert not lack.downloadable and SOURCE.modality(spec) is None
    said = refused("someone/absent", cache, revision="v1")
    assert said.startswith(
        "data of hf/someone/absent is not on this machine and HF_HUB_OFFLINE is set: on a machine"
    )


def test_streams_of_other_lengths_and_configurations_are_downloads_of_their_own() -> None:
    chosen = ({"config": "a"}, {"config": "b"}, {"config": "a", "streaming": 500})
    lacks = {
        SOURCE.locate(spec_of("someone/absent", **({"streaming": 100} | fields))).missing
        for fields in chosen
    }
    assert [lack.what for (lack,) in sorted(lacks, key=str)] == [
        "first 100 examples of each split of hf/someone/absent, a",
        "first 100 examples of each split of hf/someone/absent, b",
        "first 500 examples of each split of hf/someone/absent, a",
    ]


@pytest.mark.parametrize("name", ["hf:owner/name", "hf/", "hf/ "])
def test_a_name_without_a_place_after_the_slash_is_refused(name: str) -> None:
    problem = SOURCE.check(DatasetSpec(name=name))
    assert problem is not None and "names no place: write hf/ and a place" in problem


def test_no_code_of_a_dataset_is_run(tmp_path: Path, cache: ArtifactCache) -> None:
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    said = refused(folder, cache)
    assert "bench runs no code of a dataset" in said and "refs/convert/parquet" in said
    assert not (tmp_path / "ran").exists()


def test_a_stream_gives_the_first_examples_of_each_split_and_is_read_once(
    tmp_path: Path, cache: ArtifactCache
) -> None:
    save_images(tmp_path / "set", train=9, test=5)
    whole = load(tmp_path / "set", cache)
    first = load(tmp_path / "set", cache, streaming=4)
    for part in ("train", "test"):
        assert first.parts[part].contents == whole.parts[part].contents[:4]
    assert spec_of("a/b", streaming=4).label == "hf/a/b (first 4)"
    kept = tmp_path / "cache" / "hub-streams"
    before = {path: path.stat().st_mtime_ns for path in kept.rglob("*.parquet")}
    assert load(tmp_path / "set", cache, streaming=4).fingerprint == first.fingerprint
    assert before == {path: path.stat().st_mtime_ns for path in kept.rglob("*.parquet")}
    save_images(tmp_path / "set", train=9, test=5)
    assert load(tmp_path / "set", cache, streaming=4).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("/no/where", {}, "/no/where does not exist. Give a folder or file of data, or owner/name"),
        ("a/b/c", {}, "'a/b/c' is no dataset of the hub by its name, which is owner/name; a path"),
        ("/", {"revision": "v1"}, "revision is for datasets on the hub, and 'hf//' is a path"),
        ("a/b", {"val": "dev", "test": "dev"}, "'dev' is named for both val and test. Give each"),
        ("a/b", {"text": "x", "image": "y"}, "text and image each name the input's column"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    name: str, fields: dict[str, str], said: str
) -> None:
    problem = SOURCE.check(spec_of(name, **fields))
    assert problem is not None and problem.startswith(said)


def test_checking_and_locating_imports_neither_the_library_nor_torch(tmp_path: Path) -> None:
    save_images(tmp_path / "set", train=4)
    script = (
        "import sys; from bench.datasets.hf import HubDataSource as S\n"
        "from bench.spec import DatasetSpec\n"
        "spec = DatasetSpec(name='hf/' + sys.argv[1])\n"
        "assert S().check(spec) is None and S().locate(spec).files\n"
        "assert S().modality(spec) == 'image'\n"
        "assert not {'torch', 'datasets', 'PIL'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "set")], check=True)
