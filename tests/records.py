"""Synthetic records for tests: plausible in shape, clearly not measurements."""

import base64
import json
import zlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import text

from bench.digests import digest_strings, digest_value
from bench.record import (
    ArtifactUse,
    BackboneInfo,
    ClassScore,
    DataInfo,
    Effective,
    Environment,
    EpochPoint,
    Failure,
    GridPoint,
    InferProfile,
    Latency,
    Memory,
    NumericsPlan,
    Outcomes,
    PredictionSet,
    Preprocessing,
    Record,
    Scores,
    Selection,
    SplitInfo,
    Status,
    TrainProfile,
)
from bench.spec import BackboneSpec, Cell, DatasetSpec, StrategySpec
from bench.store import Store

NUM_TEST = 1000
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CPU = "cpu:Synthetic CPU:2"


@dataclass(frozen=True)
class Draft:
    """What a test wants to say about a record; everything else is filled in."""

    backbone: str = "packaged/efficientnet-lite0"
    dataset: str = "digits"
    strategy: str = "linear_probe"
    seed: int = 0
    accuracy: float = 0.9
    status: Status = Status.OK
    suite: str = "vision"
    run_id: int = 1
    majority: float = 0.1
    rate: float = 500.0
    memory: int = 200_000_000
    device_class: str = CPU
    device_memory: bool = False
    class_names: tuple[str, ...] = tuple(str(digit) for digit in range(10))
    fields: dict[str, Any] = field(default_factory=dict)
    minutes: int = 0
    message: str = "the loss stopped being finite in step 7"
    traceback: str = "Traceback (most recent call last):\n  …\nRuntimeError: synthetic"
    predictions: bool = False
    weights: str = "pretrained"


def make_record(**wishes: Any) -> Record:
    """Return a whole record; see `Draft` for what can be wished for."""
    draft = Draft(**wishes)
    cell = _cell(draft)
    key = digest_value({"tests": cell.canonical(), "device": draft.device_class})
    common: dict[str, Any] = {
        "key": key,
        "request_key": digest_value({"request": key}),
        "run_id": draft.run_id,
        "cell": cell,
        "status": draft.status,
        "started_at": START + timedelta(minutes=draft.minutes),
        "wall_seconds": 12.5,
        "environment": _environment(draft),
    }
    if draft.status is not Status.OK:
        failure = Failure(
            kind="RuntimeError", message=draft.message, traceback=draft.traceback, phase="train"
        )
        return Record(**common, failure=failure)
    return Record(**common, **_measured(draft))


def _cell(draft: Draft) -> Cell:
    backbone = BackboneSpec.model_validate({"name": draft.backbone, "weights": draft.weights})
    return Cell(
        suite=draft.suite,
        backbone=backbone,
        dataset=DatasetSpec(name=draft.dataset),
        strategy=StrategySpec(name=draft.strategy, **draft.fields),
        seed=draft.seed,
        image_size=64,
    )


def _measured(draft: Draft) -> dict[str, Any]:
    trains = draft.strategy != "linear_probe"
    total = 4_000_000 if "plain" not in draft.backbone else 0
    trainable = {"linear_probe": 12_810, "partial": 1_200_000}.get(draft.strategy, total)
    return {
        "test": _scores(draft, draft.accuracy),
        "val": _scores(draft, min(1.0, draft.accuracy + 0.01)),
        "selection": _selection(draft),
        "curve": _curve(draft) if trains else (),
        "seconds": {"load": 0.4, "features": 2.0, "fit": 6.0, "evaluate": 0.6, "profile": 3.5},
        "standalone_seconds": 14.5,
        "host_peak_bytes": draft.memory * 2,
        "backbone": _backbone(draft, total),
        "preprocessing": Preprocessing(image_size=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        "data": _data(draft),
        "num_parameters": total + 12_810,
        "num_trainable_parameters": trainable,
        "train_profile": _train_profile(draft) if trains else None,
        "infer_profile": _infer_profile(draft),
        "effective": Effective(
            device="cpu",
            forward=NumericsPlan(precision="bf16", memory_format="channels_last", num_threads=2),
            train=NumericsPlan(num_threads=2) if trains else None,
            requested_batch_size=64 if trains else None,
            batch_size=64 if trains else None,
            effective_batch_size=64 if trains else None,
        ),
        "artifacts": (ArtifactUse(kind="features", digest="ab" * 32, built=False, seconds=2.0),),
        "key_parts": {"weights": digest_strings([draft.backbone]), "numerics": "auto"},
        "predictions": _predictions() if draft.predictions else (),
    }


def _scores(draft: Draft, accuracy: float) -> Scores:
    share = NUM_TEST // len(draft.class_names)
    per_class = tuple(
        ClassScore(name=name, precision=accuracy, recall=accuracy, f1=accuracy, support=share)
        for name in draft.class_names
    )
    return Scores(
        num_examples=NUM_TEST,
        accuracy=accuracy,
        top5_accuracy=min(1.0, accuracy + 0.03),
        macro_f1=accuracy - 0.005,
        balanced_accuracy=accuracy,
        nll=round(1.2 - accuracy, 4),
        ece=0.02,
        per_class=per_class,
    )


def _selection(draft: Draft) -> Selection:
    points = tuple(
        GridPoint(setting={"l2": 10.0**power}, val_accuracy=draft.accuracy, val_loss=0.3)
        for power in range(-2, 2)
    )
    return Selection(points=points, chosen=1, at_grid_edge=False, converged=True)


def _curve(draft: Draft) -> tuple[EpochPoint, ...]:
    return tuple(
        EpochPoint(
            epoch=epoch,
            train_loss=round(1.5 / epoch, 4),
            learning_rate=1e-3 / epoch,
            val_accuracy=round(draft.accuracy - 0.3 / epoch**2, 4),
            val_loss=round(1.2 / epoch, 4),
            seconds=5.0,
        )
        for epoch in range(1, 6)
    )


def _backbone(draft: Draft, total: int) -> BackboneInfo:
    return BackboneInfo(
        name=draft.backbone,
        weights_digest=digest_strings([draft.backbone, draft.weights]),
        weights_source="synthetic",
        feature_dim=1280,
        num_parameters=total,
        stages=("stem", "blocks.0", "blocks.1", "head"),
        licence="Apache-2.0",
    )


def _data(draft: Draft) -> DataInfo:
    counts = (NUM_TEST // len(draft.class_names),) * len(draft.class_names)
    split = SplitInfo(num_examples=NUM_TEST, class_counts=counts, ids_digest="1d" * 32)
    return DataInfo(
        fingerprint=digest_strings([draft.dataset]),
        class_names=draft.class_names,
        splits={"train": split, "val": split, "test": split},
        num_duplicates=0,
        majority_accuracy=draft.majority,
        image_size=64,
    )


def _memory(draft: Draft) -> Memory:
    if draft.device_memory:
        return Memory(allocated_bytes=draft.memory, reserved_bytes=draft.memory * 2)
    return Memory(host_bytes=draft.memory)


def _train_profile(draft: Draft) -> TrainProfile:
    return TrainProfile(
        batch_size=64,
        step_seconds=(0.6, 0.61, 0.62),
        examples_per_second=draft.rate / 5,
        memory=_memory(replace(draft, memory=draft.memory * 4)),
    )


def _infer_profile(draft: Draft) -> InferProfile:
    def latency(size: int) -> Latency:
        seconds = (0.004 + size / draft.rate) if draft.rate else 0.004
        return Latency(
            batch_size=size,
            repeats=20,
            p50_seconds=seconds,
            p95_seconds=seconds * 1.2,
            p99_seconds=None,
        )

    return InferProfile(
        batch_size=64,
        batch_seconds=(0.12, 0.13),
        examples_per_second=draft.rate,
        latencies=(latency(1), latency(64)),
        end_to_end=latency(1),
        memory=_memory(draft),
        forward_flops=65_000_000,
    )


def _environment(draft: Draft) -> Environment:
    return Environment(
        device_class=draft.device_class,
        device_name=draft.device_class.split(":")[1],
        driver=None,
        cuda=None,
        cpu="Synthetic CPU",
        num_cores=2,
        memory_bytes=8 << 30,
        host="test-host",
        platform="Linux-6.0",
        python="3.11.9",
        packages={"torch": "2.14.0", "timm": "1.0.31", "transfer-bench": "0.1.0"},
        git_revision="0123456789abcdef0123456789abcdef01234567",
        git_dirty=False,
    )


def _predictions() -> tuple[PredictionSet, ...]:
    ids = zlib.compress(b'["a", "b", "c"]')
    word = b"\0\0\0\0"
    return tuple(
        PredictionSet(
            split=split,
            num_examples=3,
            ids_digest=digest_strings([split]),
            ids=ids,
            labels=word * 3,
            predicted=word * 3,
            true_probability=word * 3,
            top5=word * 15,
        )
        for split in ("test", "val")
    )


def with_outcomes(record: Record, right: NDArray[np.bool_]) -> Record:
    """Return the record as tables read it where these test examples are right, and no other."""
    bits = base64.b64encode(np.packbits(right).tobytes()).decode()
    outcomes = Outcomes(ids_digest="1d" * 32, num_examples=len(right), correct=bits)
    accuracy = float(right.mean())
    test = record.test.model_copy(update={"num_examples": len(right), "accuracy": accuracy})
    return record.model_copy(update={"outcomes": outcomes, "test": test})


def as_layout_3(store: Store) -> None:
    """Make a store one of layout 3, whose summaries say nothing of single examples."""
    with store._engine.begin() as connection:
        found = connection.exec_driver_sql("SELECT record_id, body FROM summaries").all()
        for number, body in found:
            data = json.loads(body)
            del data["outcomes"]
            change = text("UPDATE summaries SET body = :body WHERE record_id = :number")
            connection.execute(change, {"body": json.dumps(data), "number": number})
        connection.exec_driver_sql("UPDATE bench_layout SET version = 3")


def drawn_outcomes(record: Record) -> Record:
    """Return the record with outcomes of its accuracy; what is hard is mostly so for all cells."""
    if record.test is None:
        return record
    own = int(digest_value(record.cell.canonical())[:8], 16)
    hardness = np.random.default_rng(0).normal(size=NUM_TEST)
    hardness += 0.5 * np.random.default_rng(own).normal(size=NUM_TEST)
    right = np.zeros(NUM_TEST, dtype=bool)
    right[np.argsort(hardness)[: round(record.test.accuracy * NUM_TEST)]] = True
    return with_outcomes(record, right)


BACKBONE_RATES = {
    "packaged/efficientnet-lite0": (820.0, 180_000_000),
    "packaged/efficientnet-lite1": (560.0, 220_000_000),
    "packaged/efficientnet-lite2": (430.0, 260_000_000),
}
GAINS = {"linear_probe": 0.0, "partial": 0.05, "full": 0.09}


def vision_records(seeds: tuple[int, ...] = (0,), run_id: int = 1) -> list[Record]:
    """Return the records of a small sweep: 20 cells a seed, all `ok`."""
    records = []
    for seed in seeds:
        for dataset, base in (("digits", 0.885), ("mnist-5k", 0.862)):
            records.append(_pixels(dataset, base, seed, run_id))
            for index, (backbone, (rate, memory)) in enumerate(BACKBONE_RATES.items()):
                for strategy, gain in GAINS.items():
                    accuracy = round(base + gain + 0.004 * index + 0.003 * (seed % 4), 4)
                    records.append(
                        make_record(
                            backbone=backbone,
                            dataset=dataset,
                            strategy=strategy,
                            seed=seed,
                            accuracy=accuracy,
                            rate=rate,
                            memory=memory,
                            run_id=run_id,
                            minutes=len(records),
                        )
                    )
    return records


def _pixels(dataset: str, base: float, seed: int, run_id: int) -> Record:
    return make_record(
        backbone="plain/pixels",
        dataset=dataset,
        seed=seed,
        accuracy=round(base - 0.02, 4),
        rate=40_000.0,
        memory=9_000_000,
        run_id=run_id,
    )


def failed_records(run_id: int = 1) -> list[Record]:
    """Return one record per failed status, of a backbone of its own."""
    statuses = [status for status in Status if status is not Status.OK]
    return [
        make_record(
            backbone="timm/resnet50.a1_in1k",
            dataset="digits",
            strategy="full",
            seed=seed,
            status=status,
            run_id=run_id,
            message=f"synthetic {status.value}",
        )
        for seed, status in enumerate(statuses)
    ]
