"""Texts of train -> an extractor of tf-idf features; learns word counts and no representation.

A text is a row of numbers of the words it has, which the module counts and weighs: the same form
that tokens of a language model have, so that all that follows is shared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import sklearn
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import nn

from bench.backbones.assemble import Parts, assemble
from bench.digests import digest_value
from bench.errors import BackboneError
from bench.interfaces import Backbone, EncodedRow, RawInput, RowEncoder
from bench.record import TextPreprocessing
from bench.spec import BackboneSpec

MAX_FEATURES = 4096
"""Words that count, the most frequent ones of train: a row of features is dense."""

_MAX_WORDS = 100_000
_UNFITTED = ("short", "a text with some more words")


class WordWeights(nn.Module):
    """Rows of word numbers, shape (B, L), int64 -> tf-idf of unit length, shape (B, D), float32.

    Numbers below 0 and from D on are no words. A text without any known word is all zeros.

    Args:
        idf: Weight of each word, shape (D,).
        vocabulary: The words by number; their digest is among the module's buffers, so that it is
            part of the digest of its weights.
    """

    idf: torch.Tensor

    def __init__(self, idf: np.ndarray, vocabulary: Sequence[str]) -> None:
        super().__init__()
        digest = hashlib.sha256(json.dumps(list(vocabulary)).encode()).digest()
        self.register_buffer("idf", torch.tensor(idf, dtype=torch.float32))
        self.register_buffer("vocabulary", torch.tensor(list(digest), dtype=torch.uint8))

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Return term counts times weights, scaled to unit length."""
        width = len(self.idf)
        known = torch.where((words < 0) | (words >= width), width, words)
        counts = torch.zeros(len(words), width + 1, device=words.device)
        counts.scatter_add_(1, known, torch.ones_like(known, dtype=counts.dtype))
        return nn.functional.normalize(counts[:, :width] * self.idf, dim=1)


def load_tfidf(spec: BackboneSpec) -> Backbone:
    """Return the extractor before it has seen train: its `fit` gives the one to use.

    Source: scikit-learn's `TfidfVectorizer`: idf = ln((1 + n) / (1 + df)) + 1, rows scaled to unit
    length, words of two letters or more in lower case; the 4,096 most frequent ones of train.
    """
    return replace(fit_tfidf(spec, _UNFITTED), fit=lambda texts: fit_tfidf(spec, texts))


def fit_tfidf(spec: BackboneSpec, texts: Sequence[str]) -> Backbone:
    """Return the extractor with the words and weights of some texts.

    Raises:
        BackboneError: They hold no word.
    """
    vectorizer: Any = TfidfVectorizer(max_features=MAX_FEATURES)
    try:
        vectorizer.fit(texts)
    except ValueError as error:
        raise BackboneError(
            f"{spec.name}: {len(texts)} texts of train hold no word of two letters or more, so "
            f"there is nothing to count ({error})."
        ) from error
    vocabulary = [str(word) for word in vectorizer.get_feature_names_out()]
    encoder = _make_encoder(vectorizer, vocabulary, spec.max_tokens or _MAX_WORDS)
    parts = Parts(
        module=WordWeights(vectorizer.idf_, vocabulary),
        own=TextPreprocessing(
            max_tokens=spec.max_tokens or _MAX_WORDS, pooling=None, tokenizer=encoder.digest
        ),
        stages=(),
        source="nothing learned; words counted on train",
        declared_dim=len(vocabulary),
        trainable=False,
        modality="text",
        encoder=encoder,
    )
    return assemble(spec, parts, image_size=None)


def _make_encoder(vectorizer: Any, vocabulary: Sequence[str], max_words: int) -> RowEncoder:
    """Return what gives the number of each word of a text, in order; one for a word unknown."""
    split = vectorizer.build_analyzer()
    number = {word: place for place, word in enumerate(vocabulary)}
    unknown = len(vocabulary)

    def encode(texts: Sequence[RawInput]) -> list[EncodedRow]:
        rows = []
        for text in texts:
            words = [number.get(word, unknown) for word in split(text)] or [unknown]
            values = np.array(words[:max_words], dtype=np.int32)
            rows.append(EncodedRow(values, is_truncated=len(words) > max_words))
        return rows

    return RowEncoder(encode, digest_value([list(vocabulary), max_words, sklearn.__version__]))
