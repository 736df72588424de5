"""``plain/tfidf`` beside scikit-learn's vectorizer, and through a whole cell on a table."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from bench.artifacts import ArtifactCache
from bench.backbones.plain import PlainSource
from bench.backbones.tfidf import MAX_FEATURES
from bench.datasets.drawing import Draw
from bench.datasets.prepare import PreparedData, prepare_data
from bench.errors import BackboneError
from bench.interfaces import Backbone
from bench.spec import BackboneSpec, DatasetSpec

SPEC = BackboneSpec(name="plain/tfidf")
TRAIN = ["The cat sat on the mat.", "A dog, a cat and the Dog's bone!", "naïve façade", "on on on"]
OTHERS = ["the cat ran", "nothing known here", "", "dog dog dog cat", "?!"]


def fitted(texts: Sequence[str], spec: BackboneSpec = SPEC) -> Backbone:
    fit = PlainSource().load(spec, image_size=None, seed=0).fit
    assert fit is not None
    return fit(texts)


def features(backbone: Backbone, texts: Sequence[str]) -> np.ndarray:
    assert backbone.encoder is not None
    rows = [torch.from_numpy(row.values) for row in backbone.encoder.encode(texts)]
    batch = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1).long()
    return backbone.module(batch).numpy()


@pytest.mark.parametrize("texts", [TRAIN, OTHERS])
def test_features_are_those_of_scikit_learn_s_vectorizer(texts: list[str]) -> None:
    expected = TfidfVectorizer().fit(TRAIN).transform(texts).toarray()
    np.testing.assert_allclose(features(fitted(TRAIN), texts), expected, atol=1e-6)


def test_only_the_most_frequent_words_count() -> None:
    words = [f"w{number:05d}" for number in range(MAX_FEATURES + 500)]
    texts = [" ".join(words), " ".join(words[500:])]
    backbone = fitted(texts)
    assert backbone.info.feature_dim == MAX_FEATURES
    expected = TfidfVectorizer(max_features=MAX_FEATURES).fit(texts).transform(texts).toarray()
    np.testing.assert_allclose(features(backbone, texts), expected, atol=1e-6)


def test_nothing_is_learned_and_the_words_of_train_are_part_of_the_digest() -> None:
    backbone = fitted(TRAIN)
    assert (backbone.info.num_parameters, backbone.stages, backbone.trainable) == (0, (), False)
    assert backbone.modality == PlainSource().modality(SPEC) == "text"
    again, other = fitted(TRAIN), fitted([text.replace("cat", "cow") for text in TRAIN])
    assert backbone.info.weights_digest == again.info.weights_digest != other.info.weights_digest


def test_words_beyond_the_limit_are_cut_and_said_to_be() -> None:
    backbone = fitted(TRAIN, SPEC.model_copy(update={"max_tokens": 4}))
    assert backbone.encoder is not None
    short, long = backbone.encoder.encode(["cat on mat", "cat cat cat cat dog"])
    assert (len(short.values), short.is_truncated) == (3, False)
    assert (len(long.values), long.is_truncated) == (4, True)


def test_texts_without_a_word_are_refused() -> None:
    with pytest.raises(BackboneError, match=r"2 texts of train hold no word of two letters or"):
        fitted(["?", "a b"])


def prepare(path: Path, cache: ArtifactCache, *, seed: int) -> PreparedData:
    return prepare_data(
        DatasetSpec(name=f"table:{path}", shots=3),
        backbone=PlainSource().load(SPEC, image_size=None, seed=0),
        draw=Draw(0, seed, needs_val=False),
        cache=cache,
    )


def test_words_are_counted_on_the_train_split_alone(tmp_path: Path) -> None:
    with (tmp_path / "r.csv").open("w", newline="") as file:
        rows = [
            [f"word{number:02d} {label}", label] for number in range(20) for label in ("aa", "bb")
        ]
        csv.writer(file).writerows([["text", "label"], *rows])
    cache = ArtifactCache(tmp_path / "cache")
    first, second = (prepare(tmp_path / "r.csv", cache, seed=seed) for seed in (0, 1))
    assert len(first.train) == 6 and len(first.test) == 8
    # Three texts of each of two classes, each with a number of its own at most.
    assert first.backbone.info.feature_dim <= 6 + 2
    assert first.backbone.info.weights_digest != second.backbone.info.weights_digest
