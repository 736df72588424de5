"""``chatterbot-topics``: the real files, their numbers, and what is told when they are absent."""

from pathlib import Path

import numpy as np
import pytest

from bench.artifacts import ArtifactCache
from bench.datasets import chatterbot
from bench.datasets.chatterbot import ChatterbotSource
from bench.errors import DatasetError
from bench.spec import DatasetSpec

SPEC = DatasetSpec(name="chatterbot-topics")
SOURCE = ChatterbotSource()


def put_corpus(folder: Path, monkeypatch: pytest.MonkeyPatch, **files: str) -> None:
    """Stand other files in the place of the package's own."""
    paths = []
    for name, text in files.items():
        paths.append(folder / f"{name}.yml")
        paths[-1].write_text(text)
    monkeypatch.setattr(chatterbot, "_find", lambda: tuple(sorted(paths)))


def exchanges(*texts: str) -> str:
    return "conversations:\n" + "".join(f"- - {text}\n  - answer\n" for text in texts)


def test_the_real_corpus_is_479_texts_in_four_topics(tmp_path: Path) -> None:
    pytest.importorskip("chatterbot_corpus", reason="the samples extra is not installed")
    dataset = SOURCE.load(SPEC, ArtifactCache(tmp_path))
    examples = dataset.parts["train"]
    assert dataset.class_names == ("ai", "coding", "psychology", "trivia")
    assert np.bincount(examples.labels).tolist() == [60, 96, 62, 261]
    texts = [examples.read(position) for position in range(len(examples.ids))]
    assert len(set(texts)) == 479 and examples.modality == "text"
    assert SOURCE.load(SPEC, ArtifactCache(tmp_path)).fingerprint == dataset.fingerprint
    assert len(SOURCE.locate(SPEC).files) == 21


def test_repeated_texts_those_of_two_topics_and_small_topics_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [f"question {number}" for number in range(chatterbot.MIN_EXCHANGES)]
    put_corpus(
        tmp_path,
        monkeypatch,
        large=exchanges(*many, "question  0", "shared"),
        other=exchanges(*(f"other {text}" for text in many), "shared"),
        small=exchanges(*many[:-1]).replace("question", "small"),
    )
    dataset = SOURCE.load(SPEC, ArtifactCache(tmp_path / "cache"))
    assert dataset.class_names == ("large", "other")
    assert len(dataset.parts["train"].ids) == 2 * chatterbot.MIN_EXCHANGES


@pytest.mark.parametrize(
    "text", ["conversations: 3", "greetings: []", "conversations: [[]]", "a: ["]
)
def test_a_file_that_is_not_as_published_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    put_corpus(tmp_path, monkeypatch, odd=text)
    with pytest.raises(DatasetError, match=r"odd\.yml: not a file of exchanges as published"):
        SOURCE.load(SPEC, ArtifactCache(tmp_path / "cache"))


def test_without_the_package_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chatterbot, "_DISTRIBUTION", "no-such-distribution")
    (missing,) = SOURCE.locate(SPEC).missing
    assert missing.how == "pip install 'transfer-bench[samples]'" and not missing.downloadable
    with pytest.raises(DatasetError, match="the package no-such-distribution is not installed"):
        SOURCE.load(SPEC, ArtifactCache(tmp_path))
