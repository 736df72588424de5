"""What tables and reports need of a record: each class here is the base of a class of `record`.

A field stands in one place: here, or in `record` where only a look at the whole record needs it.
So a summary is a record read through its base class, and code that takes summaries takes records.
It knows no database. A field that moves in or out needs a layout migration in `store`.
"""

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field

from bench.spec import Cell, Frozen

SCHEMA_VERSION = 1
MAX_WAITING = 0.1
"""Share of thread time spent waiting for a CPU above which timings are those of a busy machine."""


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


class ScoreSummary(Frozen):
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


class Outcomes(Frozen):
    """Which test examples were classified correctly: what paired statistics in tables need.

    Attributes:
        ids_digest: Of the example ids in order; where it is equal, bits are of the same examples.
        num_examples: N.
        correct: A bit per example in that order, the first in the highest bit of a byte, as base64.
    """

    ids_digest: str
    num_examples: int
    correct: str


class SelectionSummary(Frozen):
    """How the choice on val ended.

    Attributes:
        chosen: Index into the grid's points.
        at_grid_edge: Whether the choice is the first or last of a grid of three values or more.
    """

    chosen: int
    at_grid_edge: bool | None
    converged: bool | None = None


class EpochSummary(Frozen):
    """What an epoch of the chosen setting led to; the epoch counts from 1.

    Attributes:
        data_wait_fraction: Share, in [0, 1], of the time of the epoch's training steps for which
            the loop was blocked, waiting for a batch that was not there yet. On a GPU, where the
            host runs ahead, an upper bound of the share for which the device had nothing to do.
    """

    epoch: int
    val_accuracy: float | None
    data_wait_fraction: float | None = None


class DataSummary(Frozen):
    """What a reader should know of a dataset before trusting a score on it.

    Attributes:
        num_duplicates: Examples of val or test whose exact content is in an earlier split too.
        num_corrupt: How many could not be read.
        num_truncated: Texts or clips, of all splits, that the backbone does not take whole; None
            for images.
        majority_accuracy: Test accuracy of always naming train's most frequent class.
    """

    num_duplicates: int
    num_corrupt: int = 0
    num_truncated: int | None = None
    majority_accuracy: float


class NumericsPlan(Frozen):
    """The numerics in force for one pass.

    Attributes:
        folded: Whether batch norms are folded into the convolutions before them, on a copy.
        batch_size: Examples per pass that were found quickest; None where none was looked for.
        compile_seconds: What the first call of the compiled pass took when the plan was measured;
            None for an eager one. It is part of no throughput.
        source: ``pinned`` by the suite, ``measured`` now, ``recalled`` from the cache, or that of
            the ``baseline`` that the run is compared with.
        seconds: Median per batch of each candidate that was timed, by name; where some were
            compiled, of those in the last comparison.
        rejected: Candidates that disagreed with fp32, or did not compile, with the reason.
    """

    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    folded: bool = False
    batch_size: int | None = None
    compiled: bool = False
    compile_seconds: float | None = None
    num_threads: int = 1
    source: Literal["pinned", "measured", "recalled", "baseline"] = "pinned"
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


class SpeedSummary(Frozen):
    """How far a measurement of speed can be trusted.

    Attributes:
        waiting_fraction: Share of the time of the process's threads for which they waited for a CPU
            that other work had; None on a GPU and where the system does not say.
    """

    waiting_fraction: float | None = None

    @property
    def is_disturbed(self) -> bool:
        """Whether other work took so much of the CPUs that the speed is not the model's own."""
        return self.waiting_fraction is not None and self.waiting_fraction > MAX_WAITING


class TrainSummary(SpeedSummary):
    """The plain training step: forward, backward, update, on data in memory; warm-up excluded."""

    batch_size: int
    examples_per_second: float
    memory: Memory
    energy_joules_per_example: float | None = None


class InferSummary(SpeedSummary):
    """The plain inference pass, backbone and head; warm-up excluded.

    Where the pass is compiled, that is so for `batch_size`; latencies at other sizes, and end to
    end, are of the eager model in the same precision.

    Attributes:
        latencies: Model only, at several batch sizes, inputs already on the device.
        end_to_end: Batch of one from an encoded example to a label, preprocessing included.
        forward_flops: Per example; a multiply and an add count as two.
    """

    batch_size: int
    examples_per_second: float
    latencies: tuple[Latency, ...]
    end_to_end: Latency | None
    memory: Memory
    forward_flops: int | None
    energy_joules_per_example: float | None = None


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


class RecordSummary(Frozen):
    """A record without what only a look at one whole record needs.

    Attributes:
        key: Versioned hash of all that can change the numbers; None if the child did not get there.
        request_key: The parent's cheap stand-in: cell, file stamps and package versions.
        wall_seconds: What this cell paid.
        standalone_seconds: That, and what the artifacts it reused had cost.
        host_peak_bytes: Highest resident memory of the child above its floor at start.
        num_trainable_parameters: Backbone and head parameters that received gradients or a fit.
        outcomes: On the test split; None where no predictions were kept.
    """

    schema_version: int = SCHEMA_VERSION
    key: str | None
    request_key: str
    run_id: int
    cell: Cell
    status: Status
    failure: Failure | None = None
    started_at: datetime
    test: ScoreSummary | None = None
    outcomes: Outcomes | None = None
    val: ScoreSummary | None = None
    selection: SelectionSummary | None = None
    curve: tuple[EpochSummary, ...] = ()
    wall_seconds: float
    standalone_seconds: float | None = None
    host_peak_bytes: int | None = None
    data: DataSummary | None = None
    num_parameters: int | None = None
    num_trainable_parameters: int | None = None
    train_profile: TrainSummary | None = None
    infer_profile: InferSummary | None = None
    effective: Effective | None = None
    environment: Environment | None = None
