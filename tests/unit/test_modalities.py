"""Images and texts in one suite: which pairs are cells, and what is told of the others."""

import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from bench import registry
from bench.cli import main
from bench.errors import SuiteError
from bench.plan import pairs_apart, plan_cells
from bench.spec import BackboneSpec, DatasetSpec
from bench.suite import load_suite
from tests.suite_plugins import registered_plugins

MIXED = """\
name: mixed
backbones: [tiny/resnet18, packaged/minilm-l6]
datasets: [digits, chatterbot-topics]
strategies: [dial, full]
"""


@pytest.fixture(autouse=True)
def plugins() -> Iterator[None]:
    with registered_plugins():
        yield


def problems(folder: Path, text: str) -> list[str]:
    path = folder / "s.yaml"
    path.write_text(text)
    with pytest.raises(SuiteError) as caught:
        load_suite(path)
    return [problem.replace(str(path), "s.yaml") for problem in caught.value.problems]


def write(folder: Path, text: str) -> Path:
    path = folder / "s.yaml"
    path.write_text(text)
    return path


def test_pairs_of_an_image_and_a_text_are_no_cells(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, MIXED))
    pairs = {(cell.backbone.name, cell.dataset.name) for cell in plan_cells(suite)}
    assert pairs == {("tiny/resnet18", "digits"), ("packaged/minilm-l6", "chatterbot-topics")}
    assert len(pairs_apart(suite)) == 2


def test_the_plan_says_how_many_pairs_were_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, store = write(tmp_path, MIXED), tmp_path / "none.db"
    monkeypatch.setattr(sys, "argv", ["bench", "plan", str(path), "--store", str(store)])
    with redirect_stdout(StringIO()) as out:
        try:
            main()
        except SystemExit as stop:
            assert stop.code in (0, 3), "what the plan lacks on this machine is no matter here"
    assert "2 pairs of a backbone and a dataset left out" in out.getvalue()


@pytest.mark.parametrize(
    ("backbones", "datasets", "expected"),
    [
        (
            "[tiny/resnet18, packaged/minilm-l6]",
            "[digits]",
            "s.yaml:2: backbone 'packaged/minilm-l6' takes examples of modality 'text', and every "
            "dataset of the suite holds others (image); add one it takes, or remove it",
        ),
        (
            "[tiny/resnet18]",
            "[digits, chatterbot-topics]",
            "s.yaml:3: dataset 'chatterbot-topics' holds examples of modality 'text', and every "
            "backbone of the suite takes others (image); add one, or remove it",
        ),
    ],
)
def test_what_is_left_without_a_partner_is_an_error(
    tmp_path: Path, backbones: str, datasets: str, expected: str
) -> None:
    text = f"name: x\nbackbones: {backbones}\ndatasets: {datasets}\nstrategies: [dial]\n"
    assert problems(tmp_path, text) == [expected]


@pytest.mark.parametrize(
    ("strategy", "fields"),
    [
        ("{name: full, augmentation: flip_crop}", "augmentation"),
        ("{name: full, mixup: 0.2, cutmix: 1.0}", "mixup and cutmix"),
        ("{name: linear_probe, views: 2}", "views"),
    ],
)
def test_augmentation_of_texts_is_an_error_of_the_suite(
    tmp_path: Path, strategy: str, fields: str
) -> None:
    (problem,) = problems(tmp_path, MIXED.replace("[dial, full]", f"[{strategy}]"))
    assert problem.startswith("s.yaml:4: strategy '")
    assert f"has {fields}, which is for images alone, and chatterbot-topics holds none" in problem


def test_augmentation_is_right_where_the_texts_are_excluded(tmp_path: Path) -> None:
    text = MIXED.replace("full]", "{name: full, augmentation: strong}]")
    text += "exclude: [{dataset: chatterbot-topics, strategy: full}]\n"
    assert len(plan_cells(load_suite(write(tmp_path, text)))) == 3


def test_a_backbone_that_is_not_here_yet_goes_with_every_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert registry.backbone_modality(BackboneSpec(name="hf/me/absent")) is None
    text = MIXED.replace("packaged/minilm-l6", "hf/me/absent")
    names = {
        (c.backbone.name, c.dataset.name) for c in plan_cells(load_suite(write(tmp_path, text)))
    }
    assert ("hf/me/absent", "digits") in names and ("hf/me/absent", "chatterbot-topics") in names


def test_a_source_that_says_nothing_is_of_images() -> None:
    assert registry.backbone_modality(BackboneSpec(name="tiny/resnet18")) == "image"
    assert registry.dataset_modality(DatasetSpec(name="tiny/x")) == "image"


def test_fields_of_texts_are_no_part_of_a_backbone_that_does_not_set_them() -> None:
    assert set(BackboneSpec(name="tiny/resnet18").model_dump()) == {
        "name",
        "weights",
        "checkpoint",
        "revision",
        "trust_remote_code",
        "mean",
        "std",
    }
    dumped = BackboneSpec(name="packaged/minilm-l6", max_tokens=64, pooling="cls").model_dump()
    assert (dumped["max_tokens"], dumped["pooling"]) == (64, "cls")


def test_one_table_used_for_its_images_and_for_its_texts_is_two_datasets(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("file,text,label\na.png,hello,x\nb.png,bye,y\n")
    names = ["{name: 'table:%s/r.csv', image: file}", "{name: 'table:%s/r.csv', text: text}"]
    for first, second in (names, names[::-1]):
        datasets = f"[{first % tmp_path}, {second % tmp_path}]"
        text = (
            "name: both\nbackbones: [plain/pixels, packaged/minilm-l6]\n"
            f"datasets: {datasets}\nstrategies: [full]\n"
        )
        (problem,) = problems(tmp_path, text)
        assert "'plain/pixels' has nothing to train" in problem
