"""The record: everything measured for a cell, versioned; knows no database and no table.

A value that was not measured is None, never 0. Units are in the names, base units throughout.
Changing a field needs a new `SCHEMA_VERSION`, a migration in `store` and a golden file.
"""

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field

from bench.spec import Cell, Frozen

SCHEMA_VERSION = 1


class Status(StrEnum):
    """How a cell ended; only `OK` carries scores."""

    OK = "ok"
    OOM = "oom"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    ERROR = "error"
    DIVERGED = "diverged"


class Failure(Frozen):
    """Why a cell is not `ok`.

    Attributes:
        kind: Exception class, or signal name for a crash.
        message: One sentence for people.
        traceback: Of the child, empty where it could not leave one.
        phase: What the child did when it ended, as far as it had said.
    """

    kind: str
    message: str
    traceback: str = ""
    phase: str | None = None


class ClassScore(Frozen):
    """Scores of one class, in [0, 1]; support is its number of examples."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


class Scores(Frozen):
    """Quality on one split; fractions in [0, 1].

    Attributes:
        top5_accuracy: None with five classes or fewer, where it says nothing.
        nll: Mean negative log-likelihood of the true class, nats.
        ece: Expected calibration error over 15 equal-width bins of confidence.
    """

    num_examples: int
    accuracy: float
    top5_accuracy: float | None
    macro_f1: float
    balanced_accuracy: float
    nll: float
    ece: float
    per_class: tuple[ClassScore, ...]


class GridPoint(Frozen):
    """One setting that was tried and its score on val; the score is None when it diverged."""

    setting: dict[str, float | int | str | bool | None]
    val_accuracy: float | None
    val_loss: float | None
    best_epoch: int | None = None
    note: str | None = None


class Selection(Frozen):
    """What was chosen on val, from what.

    Attributes:
        chosen: Index into `points`.
        at_grid_edge: Whether the choice is the first or last of a grid of three values or more.
    """

    points: tuple[GridPoint, ...]
    chosen: int
    at_grid_edge: bool | None
    converged: bool | None = None


class EpochPoint(Frozen):
    """One epoch of the chosen setting; the epoch counts from 1."""

    epoch: int
    train_loss: float
    learning_rate: float
    val_accuracy: float | None
    val_loss: float | None
    seconds: float


class Preprocessing(Frozen):
    """How an image becomes the input of a backbone.

    The shorter side is resized to ``image_size / crop_fraction``, the centre is cropped, bytes are
    scaled to [0, 1] and normalised per channel.
    """

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    crop_fraction: float = Field(default=1.0, gt=0, le=1)


class BackboneInfo(Frozen):
    """What is known of a loaded backbone.

    Attributes:
        weights_digest: sha256 of the architecture and of every parameter and buffer, in order.
        weights_source: Where they came from, for people: a file, a hub id with revision, or random.
        num_parameters: Of the backbone, without head.
        stages: Names in order from input to output.
    """

    name: str
    weights_digest: str
    weights_source: str
    feature_dim: int
    num_parameters: int
    stages: tuple[str, ...]
    licence: str | None = None


class SplitInfo(Frozen):
    """One split: how many examples, per class in the order of the class names, and which."""

    num_examples: int
    class_counts: tuple[int, ...]
    ids_digest: str


class DataInfo(Frozen):
    """What is known of the data of a cell.

    Attributes:
        fingerprint: Digest of ids, labels and bytes of every example of the dataset.
        splits: By name: train, val, test. val is absent where the protocol has none.
        num_duplicates: Examples of val or test whose exact content is in an earlier split too.
        corrupt: Names of examples that could not be read, at most 100.
        num_corrupt: How many could not be read.
        majority_accuracy: Test accuracy of always naming train's most frequent class.
    """

    fingerprint: str
    class_names: tuple[str, ...]
    splits: dict[str, SplitInfo]
    num_duplicates: int
    num_corrupt: int = 0
    corrupt: tuple[str, ...] = ()
    majority_accuracy: float
    image_size: int


class NumericsPlan(Frozen):
    """The numerics in force for one pass.

    Attributes:
        source: ``pinned`` by the suite, ``measured`` now, or ``recalled`` from the cache.
        seconds: Median per batch of each candidate that was timed, by name.
        rejected: Candidates whose outputs disagreed with fp32, with the reason.
    """

    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    compiled: bool = False
    num_threads: int = 1
    source: Literal["pinned", "measured", "recalled"] = "pinned"
    seconds: dict[str, float] = Field(default_factory=dict)
    rejected: dict[str, str] = Field(default_factory=dict)


class Effective(Frozen):
    """Settings in force, which may differ from those asked for.

    Attributes:
        batch_size: Examples per forward; with accumulation, below `effective_batch_size`.
        effective_batch_size: Examples per optimiser step.
        notes: Why a path was taken, for people.
    """

    device: str
    forward: NumericsPlan | None = None
    train: NumericsPlan | None = None
    requested_batch_size: int | None = None
    batch_size: int | None = None
    effective_batch_size: int | None = None
    notes: tuple[str, ...] = ()


class Memory(Frozen):
    """Peak bytes during a measured pass; a device without its own memory leaves those fields None.

    Attributes:
        allocated_bytes: By tensors, as the framework counts (CUDA).
        reserved_bytes: Held by the framework's allocator (CUDA).
        process_bytes: Of the process on the device as the driver sees it (CUDA).
        host_bytes: Resident memory of the process above its floor at the child's start.
    """

    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    process_bytes: int | None = None
    host_bytes: int | None = None


class Latency(Frozen):
    """Seconds per call at a batch size; p99 needs 100 repeats, p95 needs 20."""

    batch_size: int
    repeats: int
    p50_seconds: float
    p95_seconds: float | None
    p99_seconds: float | None


class TrainProfile(Frozen):
    """The plain training step: forward, backward, update, on data in memory; warm-up excluded."""

    batch_size: int
    step_seconds: tuple[float, ...]
    examples_per_second: float
    memory: Memory
    energy_joules_per_example: float | None = None


class InferProfile(Frozen):
    """The plain inference pass, backbone and head; warm-up excluded.

    Attributes:
        latencies: Model only, at several batch sizes, inputs already on the device.
        end_to_end: Batch of one from an encoded example to a label, preprocessing included.
        forward_flops: Per example; a multiply and an add count as two.
    """

    batch_size: int
    batch_seconds: tuple[float, ...]
    examples_per_second: float
    latencies: tuple[Latency, ...]
    end_to_end: Latency | None
    memory: Memory
    forward_flops: int | None
    energy_joules_per_example: float | None = None


class ArtifactUse(Frozen):
    """A shared intermediate that a cell read or made.

    Attributes:
        seconds: What it had cost to make (all of it when built here, the reused share otherwise).
        built: Whether this cell paid for it.
    """

    kind: str
    digest: str
    built: bool
    seconds: float


class Environment(Frozen):
    """Where and under which versions a cell was measured.

    Attributes:
        device_class: What must be equal for costs to be comparable, e.g. ``cpu:AMD EPYC:2``.
        packages: Version per distribution that can change a number.
        git_revision: Of the project that the suite lives in; None outside git.
    """

    device_class: str
    device_name: str
    driver: str | None
    cuda: str | None
    cpu: str
    num_cores: int
    memory_bytes: int
    host: str
    platform: str
    python: str
    packages: dict[str, str]
    git_revision: str | None
    git_dirty: bool | None


class PredictionSet(Frozen):
    """Per-example predictions on one split as little-endian blobs; paired tests need no re-run.

    Attributes:
        ids: zlib-compressed JSON list of the example ids.
        labels: int32 true class, shape (N,).
        predicted: int32 most likely class, shape (N,).
        true_probability: float32 probability of the true class, shape (N,).
        top5: int32, shape (N, min(5, K)), most likely first.
    """

    split: Literal["val", "test"]
    num_examples: int
    ids_digest: str
    ids: bytes
    labels: bytes
    predicted: bytes
    true_probability: bytes
    top5: bytes


class Record(Frozen):
    """Everything measured for a cell, with its status and environment.

    Attributes:
        key: Versioned hash of all that can change the numbers; None if the child did not get there.
        request_key: The parent's cheap stand-in: cell, file stamps and package versions.
        seconds: Wall seconds by phase.
        wall_seconds: What this cell paid.
        standalone_seconds: That, and what the artifacts it reused had cost.
        host_peak_bytes: Highest resident memory of the child above its floor at start.
        num_trainable_parameters: Backbone and head parameters that received gradients or a fit.
        predictions: Kept apart from the record's JSON.
    """

    schema_version: int = SCHEMA_VERSION
    key: str | None
    request_key: str
    run_id: int
    cell: Cell
    status: Status
    failure: Failure | None = None
    started_at: datetime
    test: Scores | None = None
    val: Scores | None = None
    selection: Selection | None = None
    curve: tuple[EpochPoint, ...] = ()
    seconds: dict[str, float] = Field(default_factory=dict)
    wall_seconds: float
    standalone_seconds: float | None = None
    host_peak_bytes: int | None = None
    backbone: BackboneInfo | None = None
    preprocessing: Preprocessing | None = None
    data: DataInfo | None = None
    num_parameters: int | None = None
    num_trainable_parameters: int | None = None
    train_profile: TrainProfile | None = None
    infer_profile: InferProfile | None = None
    effective: Effective | None = None
    artifacts: tuple[ArtifactUse, ...] = ()
    environment: Environment | None = None
    key_parts: dict[str, str] = Field(default_factory=dict)
    predictions: tuple[PredictionSet, ...] = Field(default=(), exclude=True, repr=False)


class Recalled(Frozen):
    """A child's answer when the run holds an `ok` record of its key: nothing was measured."""

    request_key: str
    key: str


class Progress(Frozen):
    """What a child is doing now, for display only."""

    phase: str
    epoch: int | None = None
    num_epochs: int | None = None
    grid_point: int | None = None
    num_grid_points: int | None = None
    val_accuracy: float | None = None
