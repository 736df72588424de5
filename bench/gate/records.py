"""Records of one run -> named cells, with when they were measured; knows no file and no verdict."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench.digests import digest_value
from bench.folds import missing_folds
from bench.gate.origins import cell_origins, profile_origins, span
from bench.gate.reading import read_cell, timed_backbones
from bench.gate.values import Measured, Metric
from bench.record import Record
from bench.spec import Cell
from bench.summary import RecordSummary, Status

Names = Mapping[str, str]
"""Identity of a cell without its seed -> its name."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        title: What it is, for people: ``baseline main``, ``run 7 of results/bench.db``.
        when: Span of its measurements.
        cells: In the order of the records.
        origins: Cell -> whether its numbers were measured now or recalled, for people.
        profile_origins: Cost -> which other cell measured the profile it is of, and when.
    """

    title: str
    suite: str
    when: str
    cells: tuple[Measured, ...]
    origins: Mapping[str, str]
    profile_origins: Mapping[tuple[str, Metric], str] = field(default_factory=dict)

    def origin(self, cell: str, metric: Metric | None) -> str:
        """Return where a number of a cell comes from, for people; empty for an unknown cell."""
        shared = self.profile_origins.get((cell, metric), "") if metric else ""
        return "; ".join(text for text in (self.origins.get(cell, ""), shared) if text)


def identify(cell: Cell) -> str:
    """Return what two cells share that differ in nothing but seed, fold and suite name."""
    fields = {name: value for name, value in cell.canonical().items() if name != "fold"}
    return digest_value({**fields, "seed": None})


def label_records(records: Sequence[RecordSummary], known: Names | None = None) -> dict[str, str]:
    """Return identity -> name of every cell of a run.

    A cell that a baseline holds keeps the name it has there, so that variants which a suite gains
    or loses leave the names of all others alone.

    Args:
        records: Of one run.
        known: Names on the other side.
    """
    firsts = {identify(record.cell): record.cell for record in records}
    names = dict(zip(firsts, _label(list(firsts.values())), strict=True))
    return {identity: (known or {}).get(identity, name) for identity, name in names.items()}


def _label(cells: Sequence[Cell]) -> list[str]:
    """Return one name per cell; variants of one name are told apart by digits of their content."""
    plain = [f"{c.backbone.label} · {c.dataset.label} · {c.strategy.name}" for c in cells]
    counts = Counter(plain)
    return [
        name if counts[name] == 1 else f"{name} #{identify(cell)[:6]}"
        for cell, name in zip(cells, plain, strict=True)
    ]


def read_run(
    records: Sequence[Record],
    names: Mapping[str, str],
    *,
    title: str,
    now: frozenset[str] = frozenset(),
) -> Side:
    """Return the records of one run as a side of a comparison.

    Args:
        records: One per cell and seed, with their predictions.
        names: Of `label_records`.
        title: See `Side`.
        now: Request keys of records that were measured by this very command.
    """
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[names[identify(record.cell)]].append(record)
    timed = timed_backbones(records)
    return Side(
        title=title,
        suite=records[0].cell.suite if records else "",
        when=span(records),
        cells=tuple(read_cell(name, group, timed) for name, group in groups.items()),
        origins=cell_origins(groups, now),
        profile_origins=profile_origins(groups, now),
    )


def incomplete(records: Sequence[RecordSummary]) -> list[str]:
    """Return what a run lacks: cells that are not ok, seeds that only others have, and folds."""
    lacks = [
        f"{record.cell.label} is {record.status.value}"
        for record in records
        if record.status is not Status.OK
    ]
    seeds = sorted({record.cell.seed for record in records})
    held: dict[str, dict[int, list[RecordSummary]]] = defaultdict(lambda: defaultdict(list))
    names = label_records(records)
    for record in records:
        held[names[identify(record.cell)]][record.cell.seed].append(record)
    lacks += [
        f"{name} · seed {seed} is missing"
        for name, own in held.items()
        for seed in seeds
        if seed not in own
    ]
    lacks += [
        f"{name} · seed {seed} · fold {fold} is missing"
        for name, own in held.items()
        for seed, group in own.items()
        for fold in missing_folds(group)
    ]
    return lacks
