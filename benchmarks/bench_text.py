"""Claim 9: `full` on texts against transformers' `Trainer`, on the same model, tokens and numerics.

Run: ``pytest benchmarks/bench_text.py``, about 5 minutes. Needs the extra ``samples``, accelerate.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest

from bench.interfaces import Backbone, Split, Task
from bench.record import Preprocessing
from bench.spec import BackboneSpec, DatasetSpec, Numerics
from bench.strategies.full import Full, FullSpec
from benchmarks import tasks, trainer
from benchmarks.measure import Timing, interleave, size, timed
from benchmarks.results import Row, Target, at_least, compare
from benchmarks.texts import review_split

pytest.importorskip("accelerate", reason="transformers' Trainer needs it")

_MINILM = BackboneSpec(name="packaged/minilm-l6")
_SPEC = FullSpec(epochs=1, batch_size=32, learning_rate=5e-5)


def test_full_on_texts_of_spread_lengths(claim) -> None:  # type: ignore[no-untyped-def]
    def measure() -> list[Row]:
        with tasks.temporary_runtime(Numerics.FP32) as runtime:
            backbone = _load()
            split = review_split(backbone, size(128, 48), runtime)
            return [_compare(backbone, split, runtime, "lengths as of reviews", at_least(2.0))]

    claim(measure)


def test_full_on_short_texts(claim) -> None:  # type: ignore[no-untyped-def]
    def measure() -> list[Row]:
        with tasks.temporary_runtime(Numerics.FP32) as runtime:
            backbone = _load()
            dataset = DatasetSpec(name="chatterbot-topics")
            data = tasks.prepare(backbone, dataset, runtime)
            split = tasks.part_of(data.train, size(288, 48))
            return [_compare(backbone, split, runtime, "chatterbot-topics", Target())]

    claim(measure)


def _load() -> Backbone:
    backbone = tasks.load_backbone(_MINILM, 0)
    assert not isinstance(backbone.preprocessing, Preprocessing)
    return backbone


def _compare(
    backbone: Backbone, split: Split, runtime: tasks.BenchRuntime, what: str, target: Target
) -> Row:
    ways = {"bench": _ours(backbone, split, runtime), "trainer": _trainers(backbone, split)}
    for run in ways.values():
        run()
    found = interleave(ways, rounds=size(2, 1))
    return compare(
        "9",
        "full on texts: texts/s over those of transformers' Trainer",
        f"minilm-l6, {len(split)} texts, {what}, batch 32, fp32",
        bench=found["bench"],
        plain=found["trainer"],
        target=target,
        note="Trainer with its own collator, which pads to the longest of a random batch",
    )


def _ours(backbone: Backbone, split: Split, runtime: tasks.BenchRuntime) -> Callable[[], Timing]:
    def run() -> Timing:
        runtime.forget("features", "profile")
        fresh = replace(backbone, module=copy.deepcopy(backbone.module))
        classes = int(split.labels.max()) + 1
        task = Task(fresh, split, None, classes, 0, runtime)
        whole = timed(lambda: Full().adapt(task, _SPEC))
        share = runtime.seconds["train"] / whole.wall_seconds
        return Timing(runtime.seconds["train"], whole.cpu_seconds * share)

    return run


def _trainers(backbone: Backbone, split: Split) -> Callable[[], Timing]:
    from transformers import AutoTokenizer

    from bench.backbones.packaged_text import locate_minilm

    tokenizer = AutoTokenizer.from_pretrained(locate_minilm(_MINILM).files[0].parent)
    rows, classes = trainer.token_rows(split), int(split.labels.max()) + 1

    def run() -> Timing:
        model = trainer.TrainerModel(backbone, classes)
        return timed(lambda: trainer.train_an_epoch(model, rows, tokenizer, _SPEC))

    return run
