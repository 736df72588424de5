"""Clips through pools, strategies, whole cells and the command line: tiny real models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import registry
from bench.artifacts import ArtifactCache
from bench.backbones.hf import HubSource
from bench.datasets.drawing import Draw
from bench.datasets.prepare import PreparedData, prepare_data
from bench.errors import StrategyError
from bench.interfaces import Backbone, Task
from bench.record import AudioPreprocessing, Status
from bench.spec import BackboneSpec, Cell, DatasetSpec, Numerics
from bench.strategies import prefix_cache
from bench.strategies.features import extract_features
from tests.audio import save_model, write_clips
from tests.integration.test_execute import make_cell, record_of
from tests.training import TestRuntime

soundfile = pytest.importorskip("soundfile", reason="the audio extra is not installed")
pytest.importorskip("soxr", reason="the audio extra is not installed")

WITHOUT_DROPOUT = {
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
}
TRAINED = {"epochs": 6, "learning_rate": 3e-3, "batch_size": 16}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {kind: save_model(root / kind, kind) for kind in ("wav2vec2", "data2vec", "ast")}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("data") / "sounds")


def load(folder: Path, **fields: object) -> Backbone:
    return HubSource().load(BackboneSpec(name=f"hf/{folder}", **fields), image_size=None, seed=0)


def prepare(sounds: Path, backbone: Backbone, cache: ArtifactCache) -> PreparedData:
    return prepare_data(
        DatasetSpec(name=f"folder:{sounds}"),
        backbone=backbone,
        draw=Draw(0, 0, needs_val=True),
        cache=cache,
    )


def make_task(sounds: Path, backbone: Backbone, runtime: TestRuntime) -> tuple[Task, PreparedData]:
    data = prepare(sounds, backbone, runtime.cache)
    task = Task(backbone, data.train, data.val, num_classes=3, seed=0, runtime=runtime)
    return task, data


def count_opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by one for every sound file that is decoded."""
    opened: list[int] = []

    class Counted(soundfile.SoundFile):
        def __init__(self, *arguments: object, **options: object) -> None:
            opened.append(1)
            super().__init__(*arguments, **options)

    monkeypatch.setattr(soundfile, "SoundFile", Counted)
    return opened


def test_clips_are_decoded_and_resampled_once_for_every_cell(
    models: dict[str, Path], sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = count_opened(monkeypatch)
    first = prepare(sounds, load(models["ast"]), ArtifactCache(tmp_path))
    assert len(opened) == 2 * 72, "once to check them, once for the pool"
    again = prepare(sounds, load(models["ast"]), ArtifactCache(tmp_path))
    assert len(opened) == 2 * 72
    assert again.train.pool.digest == first.train.pool.digest
    prepare(sounds, load(models["ast"], max_seconds=0.5), ArtifactCache(tmp_path))
    assert len(opened) == 3 * 72, "another length makes other rows"


def test_what_is_sent_to_a_deployed_model_is_decoded_each_time(
    models: dict[str, Path], sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = prepare(sounds, load(models["wav2vec2"]), ArtifactCache(tmp_path))
    opened = count_opened(monkeypatch)
    rows = [data.example() for _ in range(3)]
    assert len(opened) == 3
    pool = data.train.pool
    lengths = [int(pool.lengths[row]) for row in data.train.rows]
    assert len(rows[0]) in lengths
    place = data.train.rows[lengths.index(len(rows[0]))]
    np.testing.assert_array_equal(rows[0], pool.gather(np.array([place]))[0])


def test_cut_clips_are_counted_by_split(
    models: dict[str, Path], sounds: Path, tmp_path: Path
) -> None:
    cache = ArtifactCache(tmp_path)
    whole = prepare(sounds, load(models["wav2vec2"]), cache)
    cut = prepare(sounds, load(models["wav2vec2"], max_seconds=0.5), cache)
    for name, split in (("train", cut.train), ("test", cut.test)):
        expected = int((whole.train.pool.lengths[split.rows] > 8_000).sum())
        assert 0 < expected < len(split)
        assert cut.info.splits[name].num_truncated == expected
        assert whole.info.splits[name].num_truncated == 0
    assert cut.info.image_size is None


@pytest.mark.parametrize("kind", ["wav2vec2", "data2vec", "ast"])
def test_bucketed_features_are_those_of_each_clip_alone_in_its_place(
    kind: str, models: dict[str, Path], sounds: Path, tmp_path: Path
) -> None:
    backbone = load(models[kind])
    task, data = make_task(sounds, backbone, TestRuntime(cache=ArtifactCache(tmp_path)))
    features = extract_features(backbone, task.train, task.runtime)
    with torch.inference_mode():
        for position in range(0, len(task.train), 7):
            row = torch.from_numpy(data.train.pool.gather(task.train.rows[[position]]))
            torch.testing.assert_close(
                features[position], backbone.module(row)[0], rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize(
    ("kind", "name", "fields"),
    [
        ("ast", "linear_probe", {}),
        ("wav2vec2", "linear_probe", {}),
        ("ast", "full", TRAINED),
        ("ast", "partial", {**TRAINED, "trainable_stages": 1, "head_init": "probe"}),
        ("wav2vec2", "full", {**TRAINED, "epochs": 12}),
        ("data2vec", "norm_only", {**TRAINED, "head_init": "probe"}),
    ],
)
def test_strategies_tell_tones_from_noise(
    kind: str,
    name: str,
    fields: dict[str, object],
    models: dict[str, Path],
    sounds: Path,
    tmp_path: Path,
) -> None:
    backbone = load(models[kind])
    task, data = make_task(sounds, backbone, TestRuntime(cache=ArtifactCache(tmp_path)))
    strategy = registry.strategy(name)
    adapted = strategy.adapt(task, strategy.Spec(name=name, **fields))
    accuracy = (adapted.predict(data.test).argmax(1).numpy() == data.test.labels).mean()
    assert accuracy > 0.8


def test_adapters_train_on_clips(models: dict[str, Path], sounds: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="the extra peft is not installed")
    backbone = load(models["wav2vec2"])
    task, data = make_task(sounds, backbone, TestRuntime(cache=ArtifactCache(tmp_path)))
    lora = registry.strategy("lora")
    adapted = lora.adapt(task, lora.Spec(epochs=1, batch_size=16))
    assert adapted.predict(data.test).isfinite().all()


def adapt_partial(
    model: Path, sounds: Path, cache: Path, **fields: object
) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Return test logits of `partial`, and the notes on how it ran."""
    partial = registry.strategy("partial")
    task, data = make_task(sounds, load(model, **fields), TestRuntime(cache=ArtifactCache(cache)))
    adapted = partial.adapt(task, partial.Spec(epochs=2, batch_size=16, trainable_stages=1))
    return adapted.predict(data.test), adapted.effective.notes


def test_a_prefix_is_stored_for_clips_of_one_length_and_gives_the_plain_result(
    tmp_path: Path, sounds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Dropout draws as often as the prefix runs, so without it alone are the two paths alike.
    folder = save_model(tmp_path / "model", "wav2vec2", **WITHOUT_DROPOUT)
    # Cut at a length below all of them, every clip is as long as the next.
    stored, notes = adapt_partial(folder, sounds, tmp_path / "stored", max_seconds=0.2)
    assert not any("frozen prefix" in note for note in notes)
    monkeypatch.setattr(prefix_cache, "BUDGET_BYTES", 0)
    plain, notes = adapt_partial(folder, sounds, tmp_path / "plain", max_seconds=0.2)
    assert any("activations would take" in note for note in notes)
    torch.testing.assert_close(stored, plain, rtol=1e-3, atol=1e-4)


def test_a_prefix_of_clips_of_several_lengths_is_not_stored(
    models: dict[str, Path], sounds: Path, tmp_path: Path
) -> None:
    _, notes = adapt_partial(models["wav2vec2"], sounds, tmp_path)
    assert any("clips differ in length" in note for note in notes)


def test_augmentation_of_clips_is_refused(
    models: dict[str, Path], sounds: Path, tmp_path: Path
) -> None:
    task, _ = make_task(sounds, load(models["ast"]), TestRuntime(cache=ArtifactCache(tmp_path)))
    full = registry.strategy("full")
    with pytest.raises(StrategyError, match="mixup is for images alone"):
        full.adapt(task, full.Spec(mixup=0.2))


def sound_cell(name: str, model: Path, sounds: Path) -> Cell:
    return make_cell(
        name,
        backbone=BackboneSpec(name=f"hf/{model}"),
        dataset=DatasetSpec(name=f"folder:{sounds}"),
        image_size=None,
        numerics=Numerics.FP32,
    )


@pytest.mark.parametrize("name", ["linear_probe", "full"])
def test_an_audio_cell_is_a_whole_record_and_the_same_twice(
    name: str, models: dict[str, Path], sounds: Path, tmp_path: Path
) -> None:
    cell = sound_cell(name, models["wav2vec2"], sounds)
    record = record_of(cell, tmp_path)
    assert record.status is Status.OK, record.failure
    assert isinstance(record.preprocessing, AudioPreprocessing)
    assert record.data is not None
    assert record.data.typical_length is not None
    assert record.data.splits["test"].num_truncated == 0
    assert record.infer_profile is not None
    assert record.infer_profile.end_to_end is not None
    assert (record.train_profile is None) == (name == "linear_probe")
    again = record_of(cell, tmp_path / "again")
    assert again.key == record.key
    assert [part.predicted for part in again.predictions] == [
        part.predicted for part in record.predictions
    ]


def test_max_seconds_makes_another_key_and_is_absent_where_unset(
    models: dict[str, Path], sounds: Path
) -> None:
    cell = sound_cell("linear_probe", models["ast"], sounds)
    assert "max_seconds" not in cell.canonical()["backbone"]
    shorter = BackboneSpec(name=cell.backbone.name, max_seconds=0.5)
    changed = cell.model_copy(update={"backbone": shorter})
    assert changed.canonical()["backbone"]["max_seconds"] == 0.5


SUITE = """
name: sounds
backbones: [hf/{model}]
datasets: [folder:{sounds}]
strategies:
  - linear_probe
  - {{name: partial, trainable_stages: 1, epochs: 2}}
  - {{name: full, epochs: 2}}
limits: {{profile_time: 0.2s}}
"""


@pytest.mark.slow
def test_a_suite_of_sound_runs_from_the_command_line(
    models: dict[str, Path], sounds: Path, tmp_path: Path
) -> None:
    suite = SUITE.format(model=models["ast"], sounds=sounds)
    (tmp_path / "sounds.yaml").write_text(suite)
    environ = {**os.environ, "BENCH_CACHE": str(tmp_path / "cache")}
    environ.pop("BENCH_STORE", None)

    def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "bench", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)

    done = bench("run", "sounds.yaml")
    assert done.returncode == 0, done.stderr
    table = bench("table", "sounds", "--format", "json")
    rows = {row["strategy"]: row for row in json.loads(table.stdout)}
    assert set(rows) == {"linear_probe", "partial", "full"}
    assert rows["linear_probe"]["test_accuracy"] > 0.8
    assert all(row["status"] == "ok" for row in rows.values())
    assert all(row["latency_p50_seconds"] > 0 for row in rows.values())
