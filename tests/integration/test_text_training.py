"""Texts through pools, feeds, strategies and whole cells: tiny real models, real tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import registry
from bench.artifacts import ArtifactCache
from bench.datasets.drawing import Draw
from bench.datasets.prepare import PreparedData, prepare_data
from bench.datasets.sequences import SequenceRows
from bench.errors import DatasetError, StrategyError
from bench.interfaces import TOKEN_PADDING, Backbone, EncodedRow, RowEncoder, Split, Task
from bench.numerics.trial import _without_dropout
from bench.record import Status
from bench.spec import BackboneSpec, Cell, DatasetSpec, Numerics
from bench.strategies.features import extract_features
from bench.strategies.feed import InputFeed
from bench.strategies.inputs import typical_batch
from bench.tables.detail import record_text
from tests.integration.test_execute import make_cell, record_of
from tests.texts import (
    load_text_backbone,
    make_dataset,
    make_model,
    make_texts,
    save_text_model,
)
from tests.training import TestRuntime, seeing, small_backbone

CPU = torch.device("cpu")
TOPICS = DatasetSpec(name="chatterbot-topics")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_model(tmp_path_factory.mktemp("models") / "bert", "bert")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_model(tmp_path_factory.mktemp("models") / "gpt2", "gpt2")


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return load_text_backbone(folder, max_tokens=24)


def make_split(
    backbone: Backbone, cache: ArtifactCache, count: int = 100, seed: int = 0, name: str = "train"
) -> Split:
    texts, labels = make_texts(count, seed)
    assert backbone.encoder is not None
    pool = SequenceRows(make_dataset(texts, labels), "text", backbone.encoder, cache)
    ids = tuple(f"{name}-{number}" for number in range(count))
    return Split(name, ids, labels, pool, np.arange(count), ids_digest=name)


def make_task(backbone: Backbone, runtime: TestRuntime, count: int = 100) -> Task:
    return Task(
        backbone=backbone,
        train=make_split(backbone, runtime.cache, count, 1),
        val=make_split(backbone, runtime.cache, 40, 2, "val"),
        num_classes=2,
        seed=0,
        runtime=runtime,
    )


# The pool


def test_rows_are_padded_to_the_longest_of_those_asked_for(
    backbone: Backbone, tmp_path: Path
) -> None:
    texts, labels = make_texts(50)
    assert backbone.encoder is not None
    cache = ArtifactCache(tmp_path)
    pool = SequenceRows(make_dataset(texts, labels), "text", backbone.encoder, cache)
    rows = np.array([7, 3, 7, 41])
    got = pool.gather(rows)
    assert got.dtype == np.int32 and got.shape == (4, pool.lengths[rows].max())
    for values, row in zip(got, rows, strict=True):
        (expected,) = backbone.encoder.encode([texts[row]])
        length = pool.lengths[row]
        assert values[:length].tolist() == expected.values.tolist()
        assert (values[length:] == TOKEN_PADDING).all()
    assert pool.typical_length == int(np.median(pool.lengths))


def test_texts_are_tokenised_once_for_every_cell(backbone: Backbone, tmp_path: Path) -> None:
    texts, labels = make_texts(30)
    calls = []

    def encode(batch: list[str]) -> list[EncodedRow]:
        calls.append(len(batch))
        return [EncodedRow(np.arange(1, 3, dtype=np.int32)) for _ in batch]

    for _ in range(2):
        encoder = RowEncoder(encode, "digest")
        SequenceRows(make_dataset(texts, labels), "text", encoder, ArtifactCache(tmp_path))
    assert calls == [30]
    encoder = RowEncoder(encode, "another")
    SequenceRows(make_dataset(texts, labels), "text", encoder, ArtifactCache(tmp_path))
    assert calls == [30, 30], "another tokenizer has tokens of its own"


def test_a_row_of_nothing_is_told_by_name(tmp_path: Path) -> None:
    texts, labels = make_texts(2)
    nothing = RowEncoder(lambda batch: [EncodedRow(np.empty(0, np.int32)) for _ in batch], "none")
    with pytest.raises(DatasetError, match="t0: the backbone's encoder makes nothing of it"):
        SequenceRows(make_dataset(texts, labels), "text", nothing, ArtifactCache(tmp_path))


def test_clips_are_padded_with_what_is_no_sample(tmp_path: Path) -> None:
    texts, labels = make_texts(3)
    clips = {
        text: np.full(size, 0.5, np.float32) for text, size in zip(texts, (4, 2, 9), strict=True)
    }
    encoder = RowEncoder(lambda batch: [EncodedRow(clips[text]) for text in batch], "clips")
    pool = SequenceRows(make_dataset(texts, labels), "audio", encoder, ArtifactCache(tmp_path))
    got = pool.gather(np.array([1, 0]))
    assert got.dtype == np.float32 and np.isnan(got[0, 2:]).all()
    assert (got[0, :2] == 0.5).all() and (got[1] == 0.5).all()


# Features and feeds


def test_bucketed_features_are_those_of_each_text_alone_in_its_place(
    backbone: Backbone, tmp_path: Path
) -> None:
    runtime = TestRuntime(cache=ArtifactCache(tmp_path))
    split = make_split(backbone, runtime.cache)
    features = extract_features(backbone, split, runtime)
    with torch.inference_mode():
        for position in range(0, 100, 9):
            row = torch.from_numpy(split.pool.gather(np.array([position]))).long()
            torch.testing.assert_close(
                features[position], backbone.module(row)[0], rtol=1e-4, atol=1e-5
            )


def test_a_feed_gives_the_same_batches_held_or_streamed(backbone: Backbone, tmp_path: Path) -> None:
    split = make_split(backbone, ArtifactCache(tmp_path))
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    sizes = (32, 32, 36)
    feeds = [
        InputFeed(split, backbone.preprocessing, CPU, resident=resident)
        for resident in (True, False)
    ]
    assert feeds[0].is_resident and not feeds[1].is_resident
    for held, streamed in zip(*(feed.batches(order, sizes) for feed in feeds), strict=True):
        assert held.inputs.dtype == torch.int64
        assert torch.equal(held.inputs, streamed.inputs)
        assert torch.equal(held.labels, streamed.labels)


def test_a_typical_batch_has_the_median_length_and_no_padding(
    backbone: Backbone, tmp_path: Path
) -> None:
    split = make_split(backbone, ArtifactCache(tmp_path))
    batch = typical_batch(split, np.arange(20), CPU, backbone.preprocessing)
    assert batch.shape == (20, split.pool.typical_length)
    assert (batch != TOKEN_PADDING).all()
    longest = int(split.pool.lengths[:20].argmax())
    whole = split.pool.gather(np.array([longest]))[0]
    assert batch[longest].tolist() == whole[: batch.shape[1]].tolist()


# Strategies


@pytest.mark.parametrize("name", ["linear_probe", "full", "partial", "lora", "norm_only", "lp_ft"])
def test_strategies_learn_two_topics(name: str, folder: Path, tmp_path: Path) -> None:
    if name == "lora":
        pytest.importorskip("peft", reason="the extra peft is not installed")
    backbone = load_text_backbone(folder, max_tokens=24, pooling="mean")
    runtime = TestRuntime(cache=ArtifactCache(tmp_path))
    task = make_task(backbone, runtime, 200)
    strategy = registry.strategy(name)
    trained = {"epochs": 4, "learning_rate": 5e-3} if name != "linear_probe" else {}
    adapted = strategy.adapt(task, strategy.Spec(name=name, **trained))
    test = make_split(backbone, runtime.cache, 60, 3, "test")
    accuracy = (adapted.predict(test).argmax(1).numpy() == test.labels).mean()
    assert accuracy > 0.8


def test_a_decoder_learns_from_its_last_token(gpt2: Path, tmp_path: Path) -> None:
    backbone = load_text_backbone(gpt2)
    task = make_task(backbone, TestRuntime(cache=ArtifactCache(tmp_path)), 200)
    full = registry.strategy("full")
    adapted = full.adapt(task, full.Spec(epochs=5, learning_rate=5e-3))
    test = make_split(backbone, task.runtime.cache, 60, 3, "test")
    assert (adapted.predict(test).argmax(1).numpy() == test.labels).mean() > 0.8


def test_training_on_texts_is_the_same_twice(folder: Path, tmp_path: Path) -> None:
    outputs = []
    for _ in range(2):
        backbone = load_text_backbone(folder, max_tokens=24)
        task = make_task(backbone, TestRuntime(cache=ArtifactCache(tmp_path)))
        full = registry.strategy("full")
        adapted = full.adapt(task, full.Spec(epochs=2))
        outputs.append(adapted.predict(task.train))
    assert torch.equal(*outputs)


def test_adapters_sit_at_the_attention_of_a_bert_and_of_a_gpt2(
    folder: Path, gpt2: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft", reason="the extra peft is not installed")
    from bench.strategies.lora import Lora, LoraSpec, _attach

    expected = {
        folder: ("attention.self.query", "attention.self.key", "attention.self.value"),
        gpt2: ("attn.c_attn",),
    }
    for path, layers in expected.items():
        backbone = load_text_backbone(path)
        task = make_task(backbone, TestRuntime(cache=ArtifactCache(tmp_path)), 20)
        names = _attach(task, LoraSpec()).parameters()
        assert all("attention" in name or "attn" in name for name in names)
        for layer in layers:
            assert sum(f"{layer}.lora_A" in name for name in names) == 3, layer
    assert Lora.trains_backbone


def test_partial_says_why_a_prefix_of_texts_is_not_stored(folder: Path, tmp_path: Path) -> None:
    backbone = load_text_backbone(folder)
    task = make_task(backbone, TestRuntime(cache=ArtifactCache(tmp_path)), 20)
    partial = registry.strategy("partial")
    adapted = partial.adapt(task, partial.Spec(epochs=1, trainable_stages=1))
    assert any("only the model has their masks" in note for note in adapted.effective.notes)


@pytest.mark.parametrize(
    ("name", "fields", "named"),
    [
        ("full", {"augmentation": "flip_crop"}, "augmentation"),
        ("full", {"mixup": 0.2, "cutmix": 1.0}, "mixup and cutmix"),
        ("linear_probe", {"views": 1}, "views"),
    ],
)
def test_augmentation_of_texts_is_refused(
    backbone: Backbone, tmp_path: Path, name: str, fields: dict[str, object], named: str
) -> None:
    task = make_task(backbone, TestRuntime(cache=ArtifactCache(tmp_path)), 20)
    strategy = registry.strategy(name)
    with pytest.raises(StrategyError, match=f"{name}: {named} is for images alone"):
        strategy.adapt(task, strategy.Spec(name=name, **fields))


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_candidates_are_compared_without_the_dropout_of_attention(kind: str) -> None:
    model = make_model(kind, 60).train()
    tokens = torch.arange(40).view(2, 20)
    with torch.no_grad():
        with _without_dropout(model):
            one, same = (model(tokens).last_hidden_state for _ in range(2))
        assert torch.equal(one, same)
        one, other = (model(tokens).last_hidden_state for _ in range(2))
        assert not torch.equal(one, other), "it is back afterwards"


# Prepared data and whole cells


def prepare(backbone: Backbone, cache: ArtifactCache) -> PreparedData:
    return prepare_data(TOPICS, backbone=backbone, draw=Draw(0, 0, needs_val=True), cache=cache)


def test_truncated_texts_are_counted_by_split(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("chatterbot_corpus", reason="the samples extra is not installed")
    backbone = load_text_backbone(folder, max_tokens=6)
    data = prepare(backbone, ArtifactCache(tmp_path))
    assert backbone.encoder is not None
    whole = load_text_backbone(folder)
    lengths = prepare(whole, ArtifactCache(tmp_path)).train.pool.lengths
    for split, info in zip((data.train, data.test), ("train", "test"), strict=True):
        expected = int((lengths[split.rows] > 6).sum())
        assert expected > 0 and data.info.splits[info].num_truncated == expected
    assert data.info.image_size is None
    assert data.info.typical_length == min(6, int(np.median(lengths)))
    assert data.example().shape == (data.info.typical_length,)


def test_images_and_texts_do_not_go_together(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"of modality 'text', and the backbone .* 'image'"):
        prepare(seeing(small_backbone().preprocessing), ArtifactCache(tmp_path))


def test_a_text_backbone_without_an_encoder_is_told(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="has no encoder of text"):
        prepare(replace(backbone, encoder=None), ArtifactCache(tmp_path))


def test_a_backbone_that_has_to_see_train_is_fitted_to_its_texts_alone(
    backbone: Backbone, tmp_path: Path
) -> None:
    seen: list[str] = []

    def fit(texts: list[str]) -> Backbone:
        seen.extend(texts)
        info = backbone.info.model_copy(update={"weights_digest": "fitted"})
        return replace(backbone, info=info)

    data = prepare(replace(backbone, fit=fit), ArtifactCache(tmp_path))
    assert len(seen) == len(data.train) and len(set(seen)) == len(seen)
    assert data.backbone.info.weights_digest == "fitted"


@pytest.mark.parametrize("name", ["linear_probe", "full", "scratch"])
def test_a_text_cell_is_a_whole_record(name: str, folder: Path, tmp_path: Path) -> None:
    weights = "random" if name == "scratch" else "pretrained"
    cell = make_cell(
        name,
        backbone=BackboneSpec(name=f"hf/{folder}", weights=weights),
        dataset=TOPICS,
        image_size=None,
        numerics=Numerics.FP32,
    )
    record = record_of(cell, tmp_path)
    assert record.status is Status.OK, record.failure
    assert record.test is not None and record.data is not None
    assert record.data.splits["test"].num_truncated == 0 == record.data.num_truncated
    shown = record_text(record)
    assert "96 examples, 0 truncated" in shown and "at most 64 tokens, pooling cls" in shown
    assert record.infer_profile is not None and record.infer_profile.end_to_end is not None
    assert (record.train_profile is None) == (name == "linear_probe")
    again = record_of(cell, tmp_path / "again")
    assert again.key == record.key
    assert [part.predicted for part in again.predictions] == [
        part.predicted for part in record.predictions
    ]


def test_keys_of_image_cells_are_those_from_before_there_were_texts(tmp_path: Path) -> None:
    from bench.digests import digest_value

    record = record_of(make_cell(), tmp_path)
    assert record.key_parts["preprocessing"] == (
        "6a3123aad058e7c26eb7acf4500d6b6a8ce3a3c5bd418a0e8d21c0ae57401c7f"
    )
    assert digest_value(make_cell().canonical()) == (
        "88f5734f3f6e73390503345d12a014481022030f73e7b6fb086f1368507a4ac7"
    )
    assert digest_value(random_resnet().canonical()) == (
        "40622623e585419ad3569047950a3cb51aacca603d036193eb64ff66fac6e48f"
    )


def random_resnet() -> Cell:
    return make_cell("full", backbone=BackboneSpec(name="timm/test_resnet", weights="random"))
