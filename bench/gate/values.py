"""What the gate takes and gives: plain frozen values; knows no record, no store and no test."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from bench.compare import Difference
from bench.gate.limits import DEFAULT_LIMITS
from bench.metrics import UnpackedPredictions
from bench.summary import Status

OK, REGRESSION, INCOMPLETE, NOT_COMPARABLE = 0, 1, 3, 4
"""Exit codes of a night, see DESIGN.md."""


class Metric(StrEnum):
    """What is compared, by the name that tables give it."""

    ACCURACY = "test_accuracy"
    MACRO_F1 = "test_macro_f1"
    NLL = "test_nll"
    TRAIN_RATE = "train_examples_per_second"
    INFER_RATE = "infer_examples_per_second"
    LATENCY = "latency_p50_seconds"
    TRAIN_MEMORY = "train_peak_memory_bytes"
    INFER_MEMORY = "infer_peak_memory_bytes"
    HOST_MEMORY = "host_peak_memory_bytes"


QUALITY = (Metric.ACCURACY, Metric.MACRO_F1, Metric.NLL)
HIGHER_IS_BETTER = frozenset(
    {Metric.ACCURACY, Metric.MACRO_F1, Metric.TRAIN_RATE, Metric.INFER_RATE}
)
FAMILIES: Mapping[Metric, str] = MappingProxyType(
    {
        Metric.ACCURACY: "accuracy",
        Metric.MACRO_F1: "macro_f1",
        Metric.NLL: "nll",
        Metric.TRAIN_RATE: "throughput",
        Metric.INFER_RATE: "throughput",
        Metric.LATENCY: "latency",
        Metric.TRAIN_MEMORY: "memory",
        Metric.INFER_MEMORY: "memory",
        Metric.HOST_MEMORY: "memory",
    }
)
"""Which minimum effect and which noise floor a metric goes by."""

DEFAULT_FLOORS: Mapping[str, float] = MappingProxyType(
    {"throughput": 0.01, "latency": 0.01, "memory": 0.005}
)
"""Least spread from run to run that is believed where history tells one: a share of the value.
A few runs that happen to agree say little of what the next one does."""

ASSUMED_NOISE: Mapping[str, float] = MappingProxyType(
    {
        "throughput": 0.1,
        "latency": 0.1,
        "memory": 0.05,
        "device_memory": 0.005,
        "accuracy": 0.005,
        "macro_f1": 0.005,
        "nll": 0.02,
    }
)
"""Spread from run to run assumed where no history tells: a share of the value for costs, fractions
and nats for quality. It is wide on purpose: what nobody has measured must not page anyone. Memory
that the device's allocator counts hardly varies; a quality varies on devices only whose kernels add
up in any order, since a cell repeats exactly on a CPU."""


class Verdict(StrEnum):
    """The outcome for a cell, or for a metric of a cell."""

    REGRESSED = "regressed"
    IMPROVED = "improved"
    UNCHANGED = "unchanged"
    INCONCLUSIVE = "inconclusive"
    NOT_COMPARABLE = "not_comparable"
    MISSING = "missing"
    NEW = "new"
    FAILED = "failed"
    FIXED = "fixed"


@dataclass(frozen=True)
class SeedResult:
    """What one seed of a cell gave.

    Attributes:
        seed: Which.
        key: The record's key; None where the child did not get there.
        status: How it ended.
        predictions: On the test split; None unless ok.
        key_parts: Of the record, for what changed.
        fields: Of the cell, dotted path -> text, for what changed.
        failure: Why it is not ok, for people.
    """

    seed: int
    key: str | None
    status: Status
    predictions: UnpackedPredictions | None = None
    key_parts: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    failure: str | None = None


@dataclass(frozen=True)
class Cost:
    """Raw values of a cost.

    Attributes:
        runs: Per run its repeats, of all its processes: seconds per repeat for rates and latency,
            bytes for memory.
        batch_size: Examples per repeat; None for memory.
        counted: Whether bytes are those that the device's allocator counted, not those that the
            system saw in use.
        flaw: Why the value is not that of the model alone, after "was"; empty where it is.
    """

    runs: tuple[tuple[float, ...], ...]
    batch_size: int | None = None
    counted: bool = False
    flaw: str = ""


@dataclass(frozen=True)
class Measured:
    """A backbone x dataset x strategy with all its seeds, in one run.

    Attributes:
        cell: Its name, unique in a run, the same from night to night, for people too.
        seeds: One result per seed, at least one.
        device_class: What must be equal for costs to be comparable; None where unknown.
        numerics: Pass -> the plan in force, as text.
        effective_batch: Examples per optimiser step; None for strategies that take no steps.
        costs: By metric; a metric that was not measured is absent.
        versions: Package, driver, git revision … -> version, for what changed.
    """

    cell: str
    seeds: tuple[SeedResult, ...]
    device_class: str | None = None
    numerics: Mapping[str, str] = field(default_factory=dict)
    effective_batch: int | None = None
    costs: Mapping[Metric, Cost] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every seed ended ok."""
        return all(seed.status is Status.OK for seed in self.seeds)


History = Mapping[tuple[str, Metric], Sequence[Sequence[float]]]
"""Cell and metric -> levels -> one value per night, of equal keys on equal machines: the mean over
seeds of a quality (fraction or nats); the median of a cost (base unit, only its spread counts)."""


@dataclass(frozen=True)
class GateSettings:
    """How strict a night is.

    Attributes:
        alpha: Chance of any false alarm in a whole night.
        power: Share of effects of the detectable size that would be found.
        min_effects: Per family, see `parse_min_effects`.
        noise_floors: Per family, see `DEFAULT_FLOORS`.
        assumed_noise: Per family, see `ASSUMED_NOISE`.
        num_replicates: Bootstrap samples.
        seed: Of the bootstrap, so that a comparison can be repeated exactly.
    """

    alpha: float = 0.05
    power: float = 0.8
    min_effects: Mapping[str, float] = field(default_factory=lambda: DEFAULT_LIMITS)
    noise_floors: Mapping[str, float] = field(default_factory=lambda: DEFAULT_FLOORS)
    assumed_noise: Mapping[str, float] = field(default_factory=lambda: ASSUMED_NOISE)
    num_replicates: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class Need:
    """How many of what would have made the minimum effect detectable.

    Attributes:
        what: ``test examples``, ``seeds``, ``repeats of each run``, ``runs on each side`` or
            ``earlier runs``, which tell the noise.
        count: In all, not in addition; of examples and seeds an approximation by square roots.
    """

    what: str
    count: int


@dataclass(frozen=True)
class Row:
    """The verdict on a cell, or on one metric of it.

    Attributes:
        metric: None where the verdict is on the cell as a whole.
        effect: Candidate minus baseline for quality; candidate over baseline for costs.
        low: Lower end of its 1 - alpha interval, not adjusted for other tests.
        high: Upper end.
        baseline: Mean over seeds of a quality; rate, seconds or bytes of a cost.
        candidate: Likewise.
        p: Two-sided p-value.
        adjusted_p: By Holm over every test of the night.
        min_effect: Smallest effect that counts: a difference, or a share.
        detectable: Smallest effect these data would have shown with the power asked for.
        need: What would make the minimum effect detectable; inconclusive verdicts only.
        noise: Spread from run to run that was allowed for, likewise a difference or share.
        noise_assumed: Whether it is assumed, for want of history.
        reasons: Why, for people.
        changes: What changed since the baseline, beside rows that are not unchanged.
    """

    cell: str
    metric: Metric | None
    verdict: Verdict
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    baseline: float | None = None
    candidate: float | None = None
    p: float | None = None
    adjusted_p: float | None = None
    min_effect: float | None = None
    detectable: float | None = None
    need: Need | None = None
    noise: float | None = None
    noise_assumed: bool | None = None
    reasons: tuple[str, ...] = ()
    changes: tuple[Difference, ...] = ()


@dataclass(frozen=True)
class Verdicts:
    """A night: every row, by cell in the order of the baseline, new cells last."""

    rows: tuple[Row, ...]

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many rows have each verdict, zeros included."""
        found = Counter(row.verdict for row in self.rows)
        return {verdict: found[verdict] for verdict in Verdict}

    @property
    def exit_code(self) -> int:
        """The night's exit code; the first of these that holds.

        1: a row regressed. 3: something failed or is missing. 4: something is not comparable, or
        nothing at all was compared. 0 otherwise; inconclusive rows do not fail a night.
        """
        counts = self.counts
        if counts[Verdict.REGRESSED]:
            return REGRESSION
        if counts[Verdict.FAILED] or counts[Verdict.MISSING]:
            return INCOMPLETE
        compared = any(row.effect is not None for row in self.rows)
        if counts[Verdict.NOT_COMPARABLE] or not compared:
            return NOT_COMPARABLE
        return OK
