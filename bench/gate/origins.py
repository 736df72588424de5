"""Whether a run's numbers were measured now or recalled, and by which cell; knows no verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC

from bench.gate.values import Metric
from bench.record import ArtifactUse, Record

NOW = "measured in this run"
_INFER = (Metric.INFER_RATE, Metric.LATENCY, Metric.INFER_MEMORY)
_TRAIN = (Metric.TRAIN_RATE, Metric.TRAIN_MEMORY)

Groups = Mapping[str, Sequence[Record]]
"""Name of a cell -> its records, one per seed."""


@dataclass(frozen=True)
class _Builder:
    """The seed of a cell that measured a shared profile."""

    cell: str
    record: Record


def cell_origins(groups: Groups, now: frozenset[str]) -> dict[str, str]:
    """Return for every cell whether its records are of now, for people.

    Args:
        groups: Of one run.
        now: Request keys of records that were measured by this very command.
    """
    return {name: _origin(group, now) for name, group in groups.items()}


def profile_origins(groups: Groups, now: frozenset[str]) -> dict[tuple[str, Metric], str]:
    """Return for costs of a profile that another cell measured: which one, and when.

    Cells of one run with equal models and shapes share a profile. A cost that the cell measured
    itself is absent, and so is one whose record does not tell: a baseline keeps no artifacts, and
    a profile that was disturbed by others is noted as none.

    Args:
        groups: Of one run.
        now: As for `cell_origins`.
    """
    builders = {
        use.digest: _Builder(name, record)
        for name, group in groups.items()
        for record in group
        for use in record.artifacts
        if use.kind == "profile" and use.built
    }
    found: dict[tuple[str, Metric], dict[str, None]] = {}
    for name, group in groups.items():
        for record in group:
            for metrics, use in _profiles(record):
                text = _shared(name, record, use, builders.get(use.digest), now)
                for metric in metrics if text else ():
                    found.setdefault((name, metric), {})[text] = None
    return {place: "; ".join(texts) for place, texts in found.items()}


def _profiles(record: Record) -> list[tuple[tuple[Metric, ...], ArtifactUse]]:
    """Return the profiles of a record with the artifact of each, in the order they are taken."""
    uses = [use for use in record.artifacts if use.kind == "profile"]
    taken = [(_INFER, record.infer_profile), (_TRAIN, record.train_profile)]
    metrics = [metrics for metrics, profile in taken if profile is not None]
    return list(zip(metrics, uses, strict=True)) if len(metrics) == len(uses) else []


def _shared(
    name: str, record: Record, use: ArtifactUse, builder: _Builder | None, now: frozenset[str]
) -> str:
    if use.built:
        return ""
    if builder is None:
        return "profile by an earlier cell of the run"
    fresh = builder.record.request_key in now
    if builder.cell == name and fresh == (record.request_key in now):
        return ""
    when = NOW if fresh else f"recalled, measured {span([builder.record])}"
    return f"profile by {builder.cell} · {builder.record.cell.draw}, {when}"


def _origin(group: Sequence[Record], now: frozenset[str]) -> str:
    fresh = [record for record in group if record.request_key in now]
    if len(fresh) == len(group):
        return NOW
    old = [record for record in group if record.request_key not in now]
    what = "seeds" if group[0].cell.fold is None else "cells"
    part = f"{len(old)} of {len(group)} {what} " if fresh else ""
    return f"{part}recalled, measured {span(old)}"


def span(records: Sequence[Record]) -> str:
    """Return from when to when records were measured, to the minute."""
    moments = sorted(record.started_at.astimezone(UTC) for record in records)
    if not moments:
        return "never"
    first, last = (f"{moment:%Y-%m-%d %H:%M}" for moment in (moments[0], moments[-1]))
    return f"{first} UTC" if first == last else f"{first} to {last} UTC"
