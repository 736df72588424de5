"""Records -> one row per backbone x dataset x strategy, in base units; knows no rendering."""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from statistics import fmean, median, stdev
from typing import Any, Literal

from bench.folds import pool_folds
from bench.stats import Interval
from bench.summary import Latency, Memory, RecordSummary, ScoreSummary, Status
from bench.tables.labels import Labels, label_cells
from bench.tables.ranks import Contender, rank_contenders, row_interval

KEY_DIGITS = 12
_SEVERITY = (Status.CRASHED, Status.ERROR, Status.OOM, Status.TIMEOUT, Status.DIVERGED)
MemoryKind = Literal["device", "host"]
_Columns = dict[str, Any]
"""Some of a row's fields; that every field has its type is held by the Parquet schema's test."""


@dataclass(frozen=True)
class Row:
    """One backbone x dataset x strategy, aggregated over the seeds that ended `ok`.

    Where the dataset has folds, a seed is all of them, pooled: see `bench.folds`.

    Fractions are in [0, 1], units are base units, and what was not measured is None. Qualities are
    means over seeds, speeds medians, memory the largest, seconds the mean per cell. Costs are None
    where seeds ran on more than one class of device, since those cannot be compared.

    Attributes:
        weights: ``pretrained``, or ``random``: the control that is trained from scratch.
        status: `ok` if every seed is, else the gravest: crashed, error, oom, timeout, diverged.
        num_seeds: Seeds that ended `ok`; the row's numbers are theirs alone.
        num_cells: Seeds that were tried.
        test_accuracy_low: Lower end of the 95% interval over seeds and examples, see
            `bench.tables.ranks.row_interval`; with one seed over examples alone.
        test_accuracy_high: Upper end.
        test_accuracy_std: Between seeds; None with one seed.
        rank_low: Best rank by accuracy that the row may have among those of its suite, run and
            dataset with every seed `ok`, at 95% confidence; None where it is none of them.
        rank_high: Worst such rank. A row is best where both are 1.
        majority_accuracy: Test accuracy of always naming train's most frequent class.
        infer_batch_size: At which `infer_examples_per_second` was measured.
        latency_p50_seconds: Of a batch of one, model only.
        end_to_end_p50_seconds: Of one encoded example to its label, preprocessing included.
        memory_kind: ``device``: bytes allocated on the GPU in the pass; ``host``: resident bytes.
        precision: In force in the forward pass.
        wall_seconds: What a cell paid; cells that reused an artifact paid less.
        standalone_seconds: That, and what the artifacts it reused had cost.
        measured_at: When the newest of its cells started, ISO 8601 in UTC.
        versions: Of packages that can change a number, as ``torch 2.11.0, timm 1.0.20``.
        key: First digits of each seed's key, for ``bench show``.
    """

    suite: str
    backbone: str
    dataset: str
    strategy: str
    weights: str
    num_seeds: int
    status: str
    test_accuracy: float | None
    test_accuracy_low: float | None
    test_accuracy_high: float | None
    test_accuracy_std: float | None
    rank_low: int | None
    rank_high: int | None
    test_top5_accuracy: float | None
    test_macro_f1: float | None
    test_balanced_accuracy: float | None
    test_nll: float | None
    test_ece: float | None
    val_accuracy: float | None
    majority_accuracy: float | None
    train_examples_per_second: float | None
    train_batch_size: int | None
    infer_examples_per_second: float | None
    infer_batch_size: int | None
    latency_p50_seconds: float | None
    latency_p95_seconds: float | None
    end_to_end_p50_seconds: float | None
    train_peak_memory_bytes: int | None
    infer_peak_memory_bytes: int | None
    memory_kind: MemoryKind | None
    host_peak_memory_bytes: int | None
    num_parameters: int | None
    num_trainable_parameters: int | None
    forward_flops: int | None
    train_joules_per_example: float | None
    infer_joules_per_example: float | None
    precision: str | None
    wall_seconds: float | None
    standalone_seconds: float | None
    num_cells: int
    run_id: int
    measured_at: str
    device: str | None
    versions: str | None
    key: str | None


COLUMNS = tuple(field.name for field in fields(Row))


@dataclass(frozen=True)
class FailedCell:
    """A cell that is not `ok`, for the list under a table.

    Attributes:
        draw: Its seed, and its fold where there are folds, for people.
        reason: Kind and message in one line.
    """

    backbone: str
    dataset: str
    strategy: str
    seed: int
    draw: str
    status: str
    phase: str | None
    reason: str
    traceback: str
    key: str


def summarise(records: Iterable[RecordSummary]) -> list[Row]:
    """Return one row per run and backbone x dataset x strategy, by dataset, best accuracy first.

    Two strategies of one name, or two variants of a backbone or dataset, are two rows; their
    labels then say in what they differ.

    Args:
        records: Of one or several suites and runs. Of a cell that is there twice, as under the key
            of an older version, the later one counts.
    """
    known = list(records)
    labels = label_cells(record.cell for record in known)
    cells: dict[tuple[int, str, Labels], dict[tuple[int, int | None], RecordSummary]] = {}
    for record, names in zip(known, labels, strict=True):
        own = cells.setdefault((record.run_id, record.cell.suite, names), {})
        own[record.cell.seed, record.cell.fold] = record
    groups = {names: list(own.values()) for names, own in cells.items()}
    rows = [_row(names, group) for (_, _, names), group in groups.items()]
    return sorted(_ranked(rows, list(groups.values())), key=_order)


def _ranked(rows: Sequence[Row], groups: Sequence[Sequence[RecordSummary]]) -> list[Row]:
    """Return the rows with the ranks they may have among those of their dataset."""
    datasets: dict[tuple[str, int, str], list[int]] = defaultdict(list)
    contenders: dict[int, Contender] = {}
    for place, (row, group) in enumerate(zip(rows, groups, strict=True)):
        low, high = row.test_accuracy_low, row.test_accuracy_high
        if row.status != Status.OK or low is None or high is None:
            continue
        datasets[row.suite, row.run_id, row.dataset].append(place)
        contenders[place] = Contender(tuple(pool_folds(group)), Interval(low, high))
    ranked = list(rows)
    for places in datasets.values():
        ends = rank_contenders([contenders[place] for place in places])
        for place, (low_rank, high_rank) in zip(places, ends, strict=True):
            ranked[place] = replace(rows[place], rank_low=low_rank, rank_high=high_rank)
    return ranked


def _order(row: Row) -> tuple[str, int, list[tuple[str, int]], float, str, str]:
    accuracy = -1.0 if row.test_accuracy is None else row.test_accuracy
    return (row.suite, row.run_id, _naturally(row.dataset), -accuracy, row.backbone, row.strategy)


def _naturally(text: str) -> list[tuple[str, int]]:
    """Return what sorts 5 shots before 10: words as words, whole numbers as numbers."""
    pairs = re.findall(r"([^0-9]*)([0-9]*)", text)
    return [(word, int(number) if number else -1) for word, number in pairs]


def failed_cells(records: Iterable[RecordSummary]) -> list[FailedCell]:
    """Return the cells that are not `ok`, in the order given."""
    known = list(records)
    labels = label_cells(record.cell for record in known)
    return [
        _failed_cell(record, names)
        for record, names in zip(known, labels, strict=True)
        if record.status != Status.OK
    ]


def _failed_cell(record: RecordSummary, names: Labels) -> FailedCell:
    failure = record.failure
    return FailedCell(
        backbone=names.backbone,
        dataset=names.dataset,
        strategy=names.strategy,
        seed=record.cell.seed,
        draw=record.cell.draw,
        status=record.status.value,
        phase=failure.phase if failure else None,
        reason=f"{failure.kind}: {failure.message}" if failure else "no reason was recorded",
        traceback=failure.traceback if failure else "",
        key=_key_of(record),
    )


def _key_of(record: RecordSummary) -> str:
    return (record.key or record.request_key)[:KEY_DIGITS]


def _row(names: Labels, group: Sequence[RecordSummary]) -> Row:
    first = group[0]
    ok = [record for record in group if record.status == Status.OK]
    whole = pool_folds(ok)
    shown = ok or list(group)
    comparable = ok if len({_device_class(record) for record in ok}) == 1 else []
    return Row(
        suite=first.cell.suite,
        backbone=names.backbone,
        dataset=names.dataset,
        strategy=names.strategy,
        weights=first.cell.backbone.weights,
        num_seeds=len(whole),
        status=_worst_status(group),
        num_cells=len({record.cell.seed for record in group}),
        run_id=first.run_id,
        measured_at=_measured_at(shown),
        device=_joined(_device_name(record) for record in shown),
        versions=_joined(_versions(record) for record in shown),
        key=" ".join(_key_of(record) for record in shown),
        num_parameters=_largest(record.num_parameters for record in ok),
        num_trainable_parameters=_largest(record.num_trainable_parameters for record in ok),
        rank_low=None,
        rank_high=None,
        majority_accuracy=_mean(r.data.majority_accuracy for r in whole if r.data),
        val_accuracy=_mean(r.val.accuracy for r in whole if r.val),
        **_quality(ok, whole),
        **_train_costs(comparable),
        **_infer_costs(comparable),
        **_cell_costs(comparable),
    )


def _worst_status(group: Sequence[RecordSummary]) -> str:
    statuses = {record.status for record in group}
    return next((status.value for status in _SEVERITY if status in statuses), Status.OK.value)


def _device_class(record: RecordSummary) -> str | None:
    return record.environment.device_class if record.environment else None


def _device_name(record: RecordSummary) -> str | None:
    return record.environment.device_name if record.environment else None


def _versions(record: RecordSummary) -> str | None:
    if record.environment is None:
        return None
    packages = record.environment.packages
    return ", ".join(f"{name} {packages[name]}" for name in sorted(packages))


def _measured_at(group: Sequence[RecordSummary]) -> str:
    newest: datetime = max(record.started_at for record in group)
    return newest.astimezone(UTC).isoformat(timespec="seconds")


def _quality(ok: Sequence[RecordSummary], whole: Sequence[RecordSummary]) -> _Columns:
    tests = [record.test for record in whole if record.test is not None]

    def mean(value: Callable[[ScoreSummary], float | None]) -> float | None:
        return _mean(value(test) for test in tests)

    scores: _Columns = {
        "test_accuracy": mean(lambda test: test.accuracy),
        "test_top5_accuracy": mean(lambda test: test.top5_accuracy),
        "test_macro_f1": mean(lambda test: test.macro_f1),
        "test_balanced_accuracy": mean(lambda test: test.balanced_accuracy),
        "test_nll": mean(lambda test: test.nll),
        "test_ece": mean(lambda test: test.ece),
        "test_accuracy_low": None,
        "test_accuracy_high": None,
        "test_accuracy_std": None,
    }
    if interval := row_interval(ok):
        scores |= {"test_accuracy_low": interval.low, "test_accuracy_high": interval.high}
    if len(tests) > 1:
        scores["test_accuracy_std"] = stdev(test.accuracy for test in tests)
    return scores


def _train_costs(ok: Sequence[RecordSummary]) -> _Columns:
    profiles = [record.train_profile for record in ok if record.train_profile is not None]
    sizes = {profile.batch_size for profile in profiles}
    rates = [profile.examples_per_second for profile in profiles]
    return {
        # Rates at different batch sizes are not one number.
        "train_examples_per_second": _median(rates) if len(sizes) == 1 else None,
        "train_batch_size": sizes.pop() if len(sizes) == 1 else None,
        "train_peak_memory_bytes": _largest(_peak(profile.memory) for profile in profiles),
        "train_joules_per_example": _median(p.energy_joules_per_example for p in profiles),
    }


def _infer_costs(ok: Sequence[RecordSummary]) -> _Columns:
    profiles = [record.infer_profile for record in ok if record.infer_profile is not None]
    single = [latency for profile in profiles for latency in _of_one(profile.latencies)]
    whole = [profile.end_to_end for profile in profiles if profile.end_to_end is not None]
    sizes = {profile.batch_size for profile in profiles}
    rates = [profile.examples_per_second for profile in profiles]
    memories = [profile.memory for profile in profiles]
    return {
        "infer_examples_per_second": _median(rates) if len(sizes) == 1 else None,
        "infer_batch_size": sizes.pop() if len(sizes) == 1 else None,
        "latency_p50_seconds": _median(latency.p50_seconds for latency in single),
        "latency_p95_seconds": _median(latency.p95_seconds for latency in single),
        "end_to_end_p50_seconds": _median(latency.p50_seconds for latency in whole),
        "infer_peak_memory_bytes": _largest(_peak(memory) for memory in memories),
        "memory_kind": _memory_kind(memories),
        "forward_flops": _largest(profile.forward_flops for profile in profiles),
        "infer_joules_per_example": _median(p.energy_joules_per_example for p in profiles),
    }


def _of_one(latencies: Sequence[Latency]) -> list[Latency]:
    return [latency for latency in latencies if latency.batch_size == 1]


def _peak(memory: Memory) -> int | None:
    """Return the bytes of the pass where the device counts its own, else those of the host."""
    return memory.host_bytes if memory.allocated_bytes is None else memory.allocated_bytes


def _memory_kind(memories: Sequence[Memory]) -> MemoryKind | None:
    if any(memory.allocated_bytes is not None for memory in memories):
        return "device"
    return "host" if any(memory.host_bytes is not None for memory in memories) else None


def _cell_costs(ok: Sequence[RecordSummary]) -> _Columns:
    plans = [record.effective.forward for record in ok if record.effective]
    return {
        "precision": _joined(plan.precision for plan in plans if plan),
        "wall_seconds": _mean(record.wall_seconds for record in ok),
        "standalone_seconds": _mean(record.standalone_seconds for record in ok),
        "host_peak_memory_bytes": _largest(record.host_peak_bytes for record in ok),
    }


def _finite(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def _mean(values: Iterable[float | None]) -> float | None:
    known = _finite(values)
    return fmean(known) if known else None


def _median(values: Iterable[float | None]) -> float | None:
    known = _finite(values)
    return median(known) if known else None


def _largest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _joined(values: Iterable[str | None]) -> str | None:
    """Return the distinct texts, in order of first appearance, or None without any."""
    return " | ".join(dict.fromkeys(value for value in values if value)) or None
