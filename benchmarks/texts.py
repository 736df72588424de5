"""Texts whose lengths are spread as those of reviews, and their tokens, for benchmarks."""

from __future__ import annotations

import hashlib

import numpy as np

from bench.datasets.raw import assemble_dataset
from bench.datasets.sequences import SequenceRows
from bench.interfaces import Backbone, Examples, Split
from benchmarks.tasks import BenchRuntime

_TEXT = (
    "the film was long and the end of it came as no surprise to anyone who had read a book about "
    "such people before but I liked how they spoke and what was left out of every scene"
)
_MEDIAN_WORDS = 45
_SPREAD = 0.9
_NUM_CLASSES = 2


def review_lengths(count: int, seed: int = 0) -> np.ndarray:
    """Return lengths in words, log-normal: a median of 45, a tenth above 140, int64, shape (N,)."""
    drawn = np.random.default_rng(seed).lognormal(np.log(_MEDIAN_WORDS), _SPREAD, count)
    return np.clip(drawn, 3, 400).astype(np.int64)


def review_split(backbone: Backbone, count: int, runtime: BenchRuntime) -> Split:
    """Return as many texts of such lengths as a split that is tokenised already."""
    rng, words = np.random.default_rng(1), _TEXT.split()
    texts = [" ".join(rng.choice(words, size=length)) for length in review_lengths(count)]
    ids = tuple(f"{number:06d}" for number in range(count))
    labels = np.arange(count, dtype=np.int64) % _NUM_CLASSES
    contents = tuple(hashlib.sha256(text.encode()).hexdigest() for text in texts)
    examples = Examples(ids, labels, contents, texts.__getitem__, modality="text")
    dataset = assemble_dataset("reviews", ("worse", "better"), {"train": examples})
    assert backbone.encoder is not None
    pool = SequenceRows(dataset, "text", backbone.encoder, runtime.cache)
    return Split("train", ids, labels, pool, np.arange(count), ids_digest=dataset.fingerprint)
