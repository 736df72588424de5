"""``table:`` on real CSV, JSON lines and parquet: columns, parts, damage, and what is refused."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image

from bench.artifacts import ArtifactCache
from bench.datasets.table import TableSource
from bench.errors import DatasetError
from bench.interfaces import Clip, RawDataset
from bench.spec import DatasetSpec

SOURCE = TableSource()
PIXELS = np.random.default_rng(0)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ArtifactCache]:
    yield ArtifactCache(tmp_path / "cache")


def save_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def save_png(path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = encode_png()
    path.write_bytes(data)
    return data


def encode_png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS.integers(0, 255, (9, 12, 3), dtype=np.uint8)).save(file, format="PNG")
    return file.getvalue()


def spec_of(path: Path, **fields: object) -> DatasetSpec:
    return DatasetSpec.model_validate({"name": f"table:{path}", **fields})


def load(path: Path, cache: ArtifactCache, **fields: object) -> RawDataset:
    spec = spec_of(path, **fields)
    assert SOURCE.check(spec) is None
    return SOURCE.load(spec, cache)


def problem(path: Path, **fields: object) -> str:
    """Return what `check` says, which must be something."""
    said = SOURCE.check(spec_of(path, **fields))
    assert said is not None
    return said


def read_all(dataset: RawDataset, part: str = "train") -> list[object]:
    examples = dataset.parts[part]
    return [examples.read(position) for position in range(len(examples.ids))]


REVIEWS = [["good, really", "5"], ['bad "service"\nand food', "1"], ["so so", "5"], ["no", "1"]]


def test_named_columns_of_a_csv_are_texts_and_classes_as_written(
    tmp_path: Path, cache: ArtifactCache
) -> None:
    path = save_csv(tmp_path / "reviews.csv", ["body", "stars"], REVIEWS)
    data = load(path, cache, text="body", label="stars")
    assert data.class_names == ("1", "5")
    assert read_all(data) == [text for text, _ in REVIEWS]
    assert data.parts["train"].labels.tolist() == [1, 0, 1, 0]
    assert data.parts["train"].ids[:2] == ("reviews/000000", "reviews/000001")
    spec = spec_of(path, text="body", label="stars")
    assert data.parts["train"].modality == SOURCE.modality(spec) == "text"


def test_a_spreadsheet_s_mark_and_blanks_in_the_header_do_not_hide_a_column(
    tmp_path: Path, cache: ArtifactCache
) -> None:
    path = tmp_path / "r.csv"
    path.write_text("text, label\nein Gruß,x\nzwei,y\n", encoding="utf-8-sig")
    data = load(path, cache)
    assert read_all(data) == ["ein Gruß", "zwei"] and data.class_names == ("x", "y")


def test_every_format_gives_the_same_examples(tmp_path: Path, cache: ArtifactCache) -> None:
    rows = [{"text": text, "label": label} for text, label in REVIEWS]
    save_csv(tmp_path / "r.csv", ["text", "label"], REVIEWS)
    with (tmp_path / "r.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([["text", "label"], *REVIEWS])
    (tmp_path / "r.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "r.parquet")
    suffixes = ("csv", "tsv", "jsonl", "parquet")
    prints = {load(tmp_path / f"r.{suffix}", cache).fingerprint for suffix in suffixes}
    assert len(prints) == 1


def test_numbers_in_json_and_parquet_are_class_names(tmp_path: Path, cache: ArtifactCache) -> None:
    rows = [{"text": "a", "label": 10}, {"text": "b", "label": 9}]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "r.parquet")
    for name in ("r.jsonl", "r.parquet"):
        assert load(tmp_path / name, cache).class_names == ("10", "9")


def test_parts_match_labels_by_name_whatever_order_their_files_list_them_in(
    tmp_path: Path, cache: ArtifactCache
) -> None:
    header = ["text", "label"]
    train = save_csv(tmp_path / "train.csv", header, [["a", "zebra"], ["b", "ant"], ["c", "fox"]])
    save_csv(tmp_path / "held" / "out.csv", header, [["d", "fox"], ["e", "zebra"], ["f", "ant"]])
    data = load(train, cache, test="held/out.csv")
    named = {
        part: [data.class_names[label] for label in examples.labels]
        for part, examples in data.parts.items()
    }
    assert named == {"train": ["zebra", "ant", "fox"], "test": ["fox", "zebra", "ant"]}
    assert data.parts["test"].ids == ("out/000000", "out/000001", "out/000002")


def test_a_class_of_test_that_train_lacks_is_one_error_that_names_it(
    tmp_path: Path, cache: ArtifactCache
) -> None:
    header = ["text", "label"]
    train = save_csv(tmp_path / "train.csv", header, [["a", "ant"], ["b", "fox"]])
    save_csv(tmp_path / "test.csv", header, [["c", "Fox"], ["d", "cow"], ["e", "Fox"]])
    with pytest.raises(DatasetError) as caught:
        load(train, cache, test="test.csv")
    assert str(caught.value) == (
        f"{train}: test has classes that train lacks: 'Fox' (2 rows), 'cow' (1 rows). "
        "Train has: ant, fox. Labels are matched by name: rename them, add them to train, or leave "
        "those rows out."
    )


def test_a_folder_of_tables_has_its_parts_by_name(tmp_path: Path, cache: ArtifactCache) -> None:
    header = ["text", "label"]
    for name in ("Train.csv", "validation.tsv", "test.csv", "notes.csv"):
        separator = "\t" if name.endswith("tsv") else ","
        lines = [separator.join(row) for row in (header, (f"{name} a", "x"), (f"{name} b", "y"))]
        (tmp_path / name).write_text("\n".join(lines))
    data = load(tmp_path, cache)
    assert {part: read_all(data, part)[0] for part in data.parts} == {
        "train": "Train.csv a",
        "val": "validation.tsv a",
        "test": "test.csv a",
    }


def test_a_split_column_tells_the_parts(tmp_path: Path, cache: ArtifactCache) -> None:
    rows = [["a", "x", "train"], ["b", "y", "TRAIN"], ["c", "x", "dev"], ["d", "y", "test"]]
    path = save_csv(tmp_path / "r.csv", ["text", "label", "split"], rows)
    data = load(path, cache)
    assert {part: read_all(data, part) for part in data.parts} == {
        "train": ["a", "b"],
        "val": ["c"],
        "test": ["d"],
    }
    assert data.parts["test"].ids == ("r/000003",)
    other = save_csv(tmp_path / "s.csv", ["text", "label", "fold"], rows)
    assert load(other, cache, split="fold").parts.keys() == data.parts.keys()


def test_a_split_column_with_other_values_is_refused(tmp_path: Path, cache: ArtifactCache) -> None:
    rows = [["a", "x", "train"], ["b", "y", "holdout"]]
    path = save_csv(tmp_path / "r.csv", ["text", "label", "split"], rows)
    with pytest.raises(DatasetError, match=r"'split' says which part .* holds .holdout.. Known"):
        load(path, cache)


def test_rows_that_lack_something_count_as_corrupt(tmp_path: Path, cache: ArtifactCache) -> None:
    rows = [["a", "x", "train"], ["b", "y", "train"], ["  ", "x", "train"], ["d", "", "train"]]
    path = save_csv(tmp_path / "r.csv", ["text", "label", "split"], [*rows, ["e", "x", ""]])
    data = load(path, cache, max_corrupt_fraction=0.6)
    assert data.num_corrupt == 3 and data.corrupt == ("r/000002", "r/000003", "r/000004")
    assert data.parts["train"].ids == ("r/000000", "r/000001")
    with pytest.raises(DatasetError) as caught:
        load(path, cache)
    assert str(caught.value) == (
        f"{path}: 3 of 5 examples cannot be read, more than max_corrupt_fraction 0.01 allows: "
        "r/000002 (no text), r/000003 (no label), r/000004 (no split). Repair or remove them, or "
        "raise max_corrupt_fraction."
    )


def test_missing_values_of_parquet_and_json_count_as_corrupt(
    tmp_path: Path, cache: ArtifactCache
) -> None:
    rows = [{"text": "a", "label": 1.0}, {"text": "b", "label": 2.0}, {"text": None, "label": 1.0}]
    pq.write_table(
        pa.Table.from_pylist([*rows, {"text": "c", "label": float("nan")}]), tmp_path / "r.parquet"
    )
    lines = [*rows, {"text": "c"}]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for name in ("r.parquet", "r.jsonl"):
        data = load(tmp_path / name, cache, max_corrupt_fraction=0.5)
        assert data.corrupt == ("r/000002", "r/000003")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_several_labels_for_an_example_are_refused(
    tmp_path: Path, cache: ArtifactCache, suffix: str
) -> None:
    rows = [{"text": "a", "tags": ["x"]}, {"text": "b", "tags": ["x", "y"]}]
    path = tmp_path / f"r.{suffix}"
    if suffix == "csv":
        save_csv(path, ["text", "tags"], [[row["text"], row["tags"]] for row in rows])
    elif suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(DatasetError) as caught:
        load(path, cache, label="tags")
    assert str(caught.value) == (
        f"{path}, row 0: column 'tags' holds lists of labels (['x']): multi-label, and bench "
        "scores single-label classification: each example has exactly one class. For one "
        "attribute of several, make a dataset whose classes are its values."
    )


def test_a_class_in_brackets_is_no_list(tmp_path: Path, cache: ArtifactCache) -> None:
    path = save_csv(tmp_path / "r.csv", ["text", "label"], [["a", "[UNK]"], ["b", "[other]"]])
    assert load(path, cache).class_names == ("[UNK]", "[other]")


def test_one_class_is_refused(tmp_path: Path, cache: ArtifactCache) -> None:
    path = save_csv(tmp_path / "r.csv", ["text", "label"], [["a", "x"], ["b", "x "]])
    with pytest.raises(DatasetError, match=r"train has one class only, 'x'. Classification needs"):
        load(path, cache)


@pytest.mark.parametrize(
    ("header", "fields", "said"),
    [
        (
            ["body", "stars"],
            {"label": "stars"},
            "has no column text, image, audio: say which one is the input with text:, image: or "
            "audio:. Known: body, stars.",
        ),
        (
            ["text", "image", "label"],
            {},
            "has the columns text and image: say which one is the input with text:, image: or "
            "audio:. Known: text, image, label.",
        ),
        (
            ["text", "stars"],
            {},
            "has no column 'label': say which one holds the classes with label:. "
            "Known: text, stars.",
        ),
        (
            ["body", "stars"],
            {"text": "boby", "label": "stars"},
            "has no column 'boby'. Did you mean 'body'? Known: body, stars.",
        ),
        (["text", "label", "text"], {}, "has two columns named 'text'. Rename one."),
    ],
)
def test_columns_that_cannot_be_told_are_asked_for(
    tmp_path: Path, header: list[str], fields: dict[str, str], said: str
) -> None:
    path = save_csv(tmp_path / "r.csv", header, [["a"] * len(header)])
    assert problem(path, **fields) == f"{path} {said}"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"text,label\na,x\nb,y,z\n", ":3: 3 fields where the header has 2. Put quotes around"),
        (b'text,label\n"a,x\nb,y\n', ":3: unexpected end of data. Repair that line."),
        (b'text,label\n"a"b,x\n', ":2: ',' expected after '\"'. Repair that line."),
        (b"text,label\ncaf\xe9,x\n", " is not UTF-8 text after line 0: byte 0xe9. Save it as UTF"),
    ],
)
def test_a_damaged_csv_is_an_error_on_its_line(
    tmp_path: Path, cache: ArtifactCache, content: bytes, said: str
) -> None:
    path = tmp_path / "r.csv"
    path.write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        SOURCE.load(spec_of(path), cache)
    assert f"{path}{said}" in str(caught.value)


def test_damaged_json_and_parquet_are_errors_too(tmp_path: Path, cache: ArtifactCache) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"text": "a", "label": "x"}\n{"text": "b"\n')
    with pytest.raises(DatasetError, match=r"r.jsonl:2: Expecting ',' delimiter.* Repair that"):
        SOURCE.load(spec_of(path), cache)
    path.write_text('{"text": "a", "label": "x"}\n[1, 2]\n')
    with pytest.raises(DatasetError, match=r"r.jsonl:2: expected an object .*, got \[1, 2\]"):
        SOURCE.load(spec_of(path), cache)
    broken = tmp_path / "r.parquet"
    broken.write_bytes(b"PAR1 this is none")
    assert "r.parquet cannot be read as parquet: " in problem(broken)


def test_files_that_are_not_there_or_not_tables_are_named(tmp_path: Path) -> None:
    assert problem(tmp_path / "r.csv") == (
        f"{tmp_path}/r.csv does not exist. Give the path of a table."
    )
    (tmp_path / "r.xlsx").write_text("")
    assert problem(tmp_path / "r.xlsx") == (
        f"{tmp_path}/r.xlsx is not a table by its name. Known: .csv, .tsv, .jsonl, .parquet."
    )
    (tmp_path / "empty.csv").write_text("")
    assert problem(tmp_path / "empty.csv") == f"{tmp_path}/empty.csv is empty: it has no columns."
    path = save_csv(tmp_path / "a.csv", ["text", "label"], [["a", "x"]])
    assert (
        problem(path, test="b.csv") == f"{tmp_path}/b.csv does not exist. Give the path of a table."
    )
    assert problem(path, test="a.csv") == (
        f"{path} is named for both train and test. Give each its own."
    )
    assert problem(tmp_path).startswith(f"{tmp_path} holds no table named train. Name its tables")


def test_fields_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    path = save_csv(tmp_path / "train.csv", ["text", "label"], [["a", "x"]])
    assert problem(path, text="a", image="b") == (
        "text and image each name the input's column: keep one of them"
    )
    assert problem(path, split="s", test="t.csv") == (
        "split and separate files both say which part a row belongs to: keep one of them"
    )
    assert problem(tmp_path, test="t.csv").startswith(
        f"{tmp_path} is a folder, whose tables are found by their names: drop val and test"
    )
    save_csv(tmp_path / "test.csv", ["text", "label"], [["a", "x"]])
    assert problem(tmp_path, split="s") == f"{tmp_path} holds train, test as files: drop split."
    (tmp_path / "test.tsv").write_text("text\tlabel\n")
    assert problem(tmp_path) == (
        f"{tmp_path} holds two tables for test: test.csv and test.tsv. Keep one."
    )


def test_a_column_missing_in_test_is_found_before_any_row_is_read(tmp_path: Path) -> None:
    path = save_csv(tmp_path / "train.csv", ["text", "label"], [["a", "x"]])
    save_csv(tmp_path / "test.csv", ["text", "labels"], [["a", "x"]])
    assert problem(path, test="test.csv") == (
        f"{tmp_path}/test.csv has no column 'label'. Did you mean 'labels'? Known: text, labels."
    )


def test_image_paths_are_relative_to_the_table(tmp_path: Path, cache: ArtifactCache) -> None:
    data = [save_png(tmp_path / "photos" / f"{number}.png") for number in range(4)]
    rows = [[f"photos/{number}.png", "ab"[number % 2]] for number in range(4)]
    path = save_csv(tmp_path / "r.csv", ["file", "label"], [*rows, ["photos/none.png", "a"]])
    loaded = load(path, cache, image="file", max_corrupt_fraction=0.2)
    examples = loaded.parts["train"]
    assert examples.encoded is not None and examples.encoded(1) == data[1]
    assert examples.modality == SOURCE.modality(spec_of(path, image="file")) == "image"
    assert loaded.corrupt == ("r/000004",)
    with pytest.raises(DatasetError, match=r"r/000004 \(.*photos/none.png: missing\)"):
        load(path, cache, image="file")
    located = SOURCE.locate(spec_of(path, image="file"))
    assert {file.name for file in located.files} == {"r.csv", *(f"{n}.png" for n in range(4))} | {
        "none.png"
    }


@pytest.mark.parametrize("kind", [pa.dictionary(pa.int32(), pa.binary()), pa.binary_view()])
def test_images_can_be_bytes_of_any_kind_that_parquet_has(
    tmp_path: Path, cache: ArtifactCache, kind: pa.DataType
) -> None:
    pngs = [encode_png() for _ in range(4)]
    table = pa.table({"image": pa.array(pngs).cast(kind), "label": list("abab")})
    pq.write_table(table, tmp_path / "r.parquet")
    assert [image.size for image in read_all(load(tmp_path / "r.parquet", cache))] == [(12, 9)] * 4


@pytest.mark.parametrize("wrapped", [False, True])
def test_images_can_be_bytes_in_parquet(
    tmp_path: Path, cache: ArtifactCache, wrapped: bool
) -> None:
    pngs: list[bytes | None] = [encode_png() for _ in range(7)]
    pngs += [b"no image", None]
    cells = [{"bytes": png, "path": "x.png"} for png in pngs] if wrapped else pngs
    rows = [{"image": cell, "label": "ab"[at % 2]} for at, cell in enumerate(cells)]
    path = tmp_path / "r.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    data = load(path, cache, max_corrupt_fraction=0.3)
    examples = data.parts["train"]
    assert examples.encoded is not None
    backwards = [examples.encoded(position) for position in reversed(range(7))]
    assert backwards == pngs[6::-1]
    assert [image.size for image in read_all(data)] == [(12, 9)] * 7
    assert data.corrupt == ("r/000007", "r/000008")
    with pytest.raises(DatasetError, match=r"r/000007 \(not an image\), r/000008 \(no image\)"):
        load(path, cache)


def encode_wav(samples: Sequence[float]) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.array(samples, dtype=np.float32), 8000, format="WAV", subtype="FLOAT")
    return file.getvalue()


@pytest.mark.parametrize("embedded", [False, True])
def test_clips_are_paths_or_bytes_too(tmp_path: Path, cache: ArtifactCache, embedded: bool) -> None:
    sounds = [[0.0, 0.5, -0.5], [0.25, 0.0]]
    if embedded:
        path = tmp_path / "r.parquet"
        rows = [{"audio": encode_wav(each), "label": "xy"[at]} for at, each in enumerate(sounds)]
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        for at, each in enumerate(sounds):
            (tmp_path / f"{at}.wav").write_bytes(encode_wav(each))
        path = save_csv(tmp_path / "r.csv", ["audio", "label"], [["0.wav", "x"], ["1.wav", "y"]])
    data = load(path, cache)
    clips = [clip for clip in read_all(data) if isinstance(clip, Clip)]
    assert [(clip.samples.tolist(), clip.sample_rate) for clip in clips] == [
        (each, 8000) for each in sounds
    ]
    assert data.parts["train"].modality == SOURCE.modality(spec_of(path)) == "audio"
    assert "soundfile" in SOURCE.locate(spec_of(path)).packages


def test_a_second_load_of_embedded_images_decodes_none(
    tmp_path: Path, cache: ArtifactCache
) -> None:
    rows = [{"image": encode_png(), "label": "ab"[at % 2]} for at in range(6)]
    path = tmp_path / "r.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    first = load(path, cache).fingerprint
    again = ArtifactCache(cache.root)
    assert load(path, again).fingerprint == first
    assert [use.built for use in again.ledger.uses()] == [False]
    pq.write_table(pa.Table.from_pylist(rows[::-1]), path)
    os.utime(path, ns=(1, 1))
    assert load(path, again).fingerprint != first


def test_bytes_are_not_taken_for_text(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    pq.write_table(pa.Table.from_pylist([{"body": b"a", "label": "x"}]), path)
    assert problem(path, text="body") == (
        f"{path}: column 'body' holds bytes, not text. Name it with image: or audio: if that is "
        "what it holds."
    )
    pq.write_table(pa.Table.from_pylist([{"body": "a", "label": "x"}]), tmp_path / "t.parquet")
    assert problem(path, image="body", test="t.parquet") == (
        f"{tmp_path}: column 'body' holds bytes in r.parquet and text in t.parquet. Save all parts "
        "alike."
    )


def test_tables_of_the_same_name_in_two_folders_have_ids_by_part(
    tmp_path: Path, cache: ArtifactCache
) -> None:
    header, rows = ["text", "label"], [["a", "x"], ["b", "y"]]
    train = save_csv(tmp_path / "one" / "data.csv", header, rows)
    save_csv(tmp_path / "two" / "data.csv", header, rows)
    data = load(train, cache, test="../two/data.csv")
    assert data.parts["train"].ids[0] == "train/000000"
    assert data.parts["test"].ids[0] == "test/000000"


def test_the_table_and_what_it_lists_decide_whether_a_key_is_remembered(tmp_path: Path) -> None:
    path = save_csv(tmp_path / "train.csv", ["text", "label"], [["a", "x"], ["b", "y"]])
    held = save_csv(tmp_path / "held.csv", ["text", "label"], [["a", "x"]])
    located = SOURCE.locate(spec_of(path, test="held.csv"))
    assert located.files == (path, held) and not located.missing
    absent = SOURCE.locate(spec_of(tmp_path / "none.csv"))
    assert absent.missing[0].how.endswith("none.csv does not exist. Give the path of a table.")
    assert not absent.missing[0].downloadable


def test_a_text_of_megabytes_is_read_whole(tmp_path: Path, cache: ArtifactCache) -> None:
    rows = [["long " * 400_000, "x"], ["b", "y"]]
    path = save_csv(tmp_path / "r.csv", ["text", "label"], rows)
    assert read_all(load(path, cache))[0] == rows[0][0]


def test_a_suite_with_a_wrong_column_fails_at_once_and_without_torch(tmp_path: Path) -> None:
    path = save_csv(tmp_path / "r.csv", ["body", "stars"], [["a", "x"]])
    suite = tmp_path / "s.yaml"
    suite.write_text(
        "name: s\nbackbones: [plain/pixels]\nstrategies: [linear_probe]\n"
        f"datasets:\n  - {{name: 'table:{path}', text: boby, label: stars}}\n"
    )
    script = (
        "import sys; from pathlib import Path\n"
        "from bench import load_suite; from bench.errors import SuiteError\n"
        "try: load_suite(Path(sys.argv[1]))\n"
        "except SuiteError as error: print(error)\n"
        "assert 'torch' not in sys.modules and 'PIL' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(suite)], capture_output=True, text=True, check=True
    )
    assert done.stdout == (
        f"{suite}:5: {path} has no column 'boby'. Did you mean 'body'? Known: body, stars.\n"
    )
