"""Records of one cell's seeds -> what the gate compares; knows no store and no verdict."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from bench.compare import cell_fields
from bench.digests import digest_value
from bench.errors import UsageError
from bench.folds import missing_folds
from bench.gate.values import Cost, Measured, Metric, SeedResult
from bench.metrics import join_predictions, unpack_predictions
from bench.record import Effective, Environment, Memory, NumericsPlan, Record
from bench.summary import RecordSummary, Status

BUSY = "measured on a busy machine, so its speed is not the model's"
TIMED = "measured in a process that had timed numerics, so its memory is not the model's"


def timed_backbones(records: Iterable[RecordSummary]) -> frozenset[str]:
    """Return the labels of backbones whose numerics plans were timed in a run.

    What was tried leaves its traces in the resident memory of the process; and cells share the
    profile of the first one, whichever that is.

    Args:
        records: All of the run.
    """
    return frozenset(
        record.cell.backbone.label
        for record in records
        if record.effective is not None
        for plan in (record.effective.forward, record.effective.train)
        if plan is not None and plan.source == "measured"
    )


def cost_flaws(
    records: Sequence[RecordSummary], timed: frozenset[str] = frozenset()
) -> dict[Metric, str]:
    """Return the costs of a cell that are not those of the model alone, and why.

    Args:
        records: Of the cell, one per seed.
        timed: See `timed_backbones`.
    """
    train = [record.train_profile for record in records if record.train_profile is not None]
    infer = [record.infer_profile for record in records if record.infer_profile is not None]
    flaws: dict[Metric, str] = {}
    if any(each.is_disturbed for each in train):
        flaws[Metric.TRAIN_RATE] = BUSY
    if any(each.is_disturbed for each in infer):
        flaws |= {Metric.INFER_RATE: BUSY, Metric.LATENCY: BUSY}
    if any(record.cell.backbone.label in timed for record in records):
        flaws[Metric.HOST_MEMORY] = TIMED
        if all(each.memory.allocated_bytes is None for each in train):
            flaws[Metric.TRAIN_MEMORY] = TIMED
        if all(each.memory.allocated_bytes is None for each in infer):
            flaws[Metric.INFER_MEMORY] = TIMED
    return flaws


def read_cell(
    name: str, records: Sequence[Record], timed: frozenset[str] = frozenset()
) -> Measured:
    """Return the records of a backbone x dataset x strategy as one value.

    Costs are those of the records that are ok. Peaks are bytes on the GPU where it counts them,
    else resident bytes, as tables have it. Where seeds ran under different conditions, every one
    of these is named, so that a night under a single one differs.

    Args:
        name: Of the cell, the same from night to night.
        records: One per seed, at least one, or one per seed and fold; predictions included.
        timed: See `timed_backbones`.

    Raises:
        UsageError: No record.
    """
    if not records:
        raise UsageError(f"the cell {name!r} has no record to compare")
    ok = [record for record in records if record.test is not None]
    effective = [record.effective for record in records if record.effective is not None]
    environments = [record.environment for record in records if record.environment is not None]
    batches = {each.effective_batch_size for each in effective if each.effective_batch_size}
    return Measured(
        cell=name,
        seeds=tuple(_seed(group) for _, group in sorted(_by_seed(records).items())),
        device_class=_joined(each.device_class for each in environments) or None,
        numerics=describe_numerics(effective),
        effective_batch=max(batches, default=None),
        costs=_costs(ok, cost_flaws(ok, timed)),
        versions=describe_versions(environments),
    )


def _joined(texts: Iterable[str]) -> str:
    return " + ".join(dict.fromkeys(texts))


def _by_seed(records: Sequence[Record]) -> dict[int, list[Record]]:
    seeds: dict[int, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.cell.fold or 0):
        seeds[record.cell.seed].append(record)
    return seeds


def _seed(records: Sequence[Record]) -> SeedResult:
    """Return what a seed gave; of folds, which are tested on different examples, all of them."""
    parts = [_result(record) for record in records]
    if records[0].cell.fold is None:
        return parts[0]
    folds = [record.cell.fold for record in records]
    failed = [each for each in parts if each.status is not Status.OK]
    failures = [
        f"fold {fold}: {each.failure}"
        for fold, each in zip(folds, parts, strict=True)
        if each.status is not Status.OK
    ]
    missing = missing_folds(records)
    failures += [f"fold {fold} is missing" for fold in missing]
    keys = [each.key for each in parts if each.key is not None]
    given = [each.predictions for each in parts if each.predictions is not None]
    whole = len(given) == len(parts) and not failures
    status = failed[0].status if failed else Status.OK
    return SeedResult(
        seed=parts[0].seed,
        key=digest_value(keys) if len(keys) == len(parts) else None,
        status=Status.ERROR if missing and not failed else status,
        predictions=join_predictions(given) if whole else None,
        key_parts=_joined_texts([each.key_parts for each in parts]),
        fields={name: text for name, text in parts[0].fields.items() if name != "fold"},
        failure="; ".join(failures) or None,
    )


def _joined_texts(several: Sequence[Mapping[str, str]]) -> dict[str, str]:
    names = dict.fromkeys(name for each in several for name in each)
    return {name: _joined(each[name] for each in several if name in each) for name in names}


def _result(record: Record) -> SeedResult:
    test = [kept for kept in record.predictions if kept.split == "test"]
    return SeedResult(
        seed=record.cell.seed,
        key=record.key,
        status=record.status,
        predictions=unpack_predictions(test[0]) if test else None,
        key_parts=record.key_parts,
        fields=cell_fields(record.cell),
        failure=record.failure.message if record.failure else None,
    )


def describe_numerics(effective: Sequence[Effective]) -> dict[str, str]:
    """Return pass -> the plan in force, as text; several of seeds are all named."""
    batches = {each.effective_batch_size for each in effective if each.effective_batch_size}
    plans = {
        "forward": _joined(_text(each.forward) for each in effective if each.forward),
        "train": _joined(_text(each.train) for each in effective if each.train),
    }
    if len(batches) > 1:
        plans["effective batch by seed"] = _joined(str(size) for size in sorted(batches))
    return {name: text for name, text in plans.items() if text}


def _text(plan: NumericsPlan) -> str:
    kind = "compiled" if plan.compiled else "eager"
    folded = ", batch norms folded" if plan.folded else ""
    return f"{plan.precision}, {plan.memory_format}{folded}, {kind}, {plan.num_threads} threads"


def describe_versions(environments: Sequence[Environment]) -> dict[str, str]:
    """Return package, driver, host, git revision … -> version; several of seeds are all named."""
    names = dict.fromkeys(name for each in environments for name in each.packages)
    packages = {
        name: _joined(each.packages[name] for each in environments if name in each.packages)
        for name in names
    }
    others = {
        "python": _joined(each.python for each in environments),
        "driver": _joined(each.driver for each in environments if each.driver),
        "cuda": _joined(each.cuda for each in environments if each.cuda),
        "platform": _joined(each.platform for each in environments),
        "host": _joined(each.host for each in environments),
        "git revision": _joined(_revision(each) for each in environments if each.git_revision),
    }
    return packages | {name: text for name, text in others.items() if text}


def _revision(environment: Environment) -> str:
    changed = " with uncommitted changes" if environment.git_dirty else ""
    return f"{environment.git_revision}{changed}"


def _costs(records: Sequence[Record], flaws: Mapping[Metric, str]) -> dict[Metric, Cost]:
    train = [record.train_profile for record in records if record.train_profile is not None]
    infer = [record.infer_profile for record in records if record.infer_profile is not None]
    single = [each for profile in infer for each in profile.latencies if each.batch_size == 1]
    found = {
        Metric.TRAIN_RATE: _timed((each.step_seconds, each.batch_size) for each in train),
        Metric.INFER_RATE: _timed((each.batch_seconds, each.batch_size) for each in infer),
        Metric.LATENCY: _timed(((each.p50_seconds,), 1) for each in single),
        Metric.TRAIN_MEMORY: highest_peak(each.memory for each in train),
        Metric.INFER_MEMORY: highest_peak(each.memory for each in infer),
        Metric.HOST_MEMORY: highest_peak(
            Memory(host_bytes=record.host_peak_bytes) for record in records
        ),
    }
    return {
        metric: replace(cost, flaw=flaws.get(metric, ""))
        for metric, cost in found.items()
        if cost is not None
    }


def _timed(profiles: Iterable[tuple[tuple[float, ...], int]]) -> Cost | None:
    """Return the repeats at the largest batch size among seeds; others cannot be put beside them.

    A profile that seeds share is given by each of them and counts once.
    """
    given = list(profiles)
    if not given:
        return None
    largest = max(size for _, size in given)
    distinct = dict.fromkeys(repeats for repeats, size in given if size == largest)
    return Cost(runs=(tuple(chain.from_iterable(distinct)),), batch_size=largest)


def host_memory(records: Iterable[RecordSummary]) -> list[Memory]:
    """Return the peak of each record's whole process.

    Args:
        records: One per seed.
    """
    return [Memory(host_bytes=record.host_peak_bytes) for record in records]


def highest_peak(memories: Iterable[Memory]) -> Cost | None:
    """Return the highest peak among seeds, as tables have it; None where none was measured.

    Args:
        memories: One per seed.
    """
    given = list(memories)
    counted = [each.allocated_bytes for each in given if each.allocated_bytes is not None]
    peaks = counted or [each.host_bytes for each in given if each.host_bytes is not None]
    return Cost(runs=((float(max(peaks)),),), counted=bool(counted)) if peaks else None
