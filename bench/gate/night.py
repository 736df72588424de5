"""A baseline and what is compared with it -> a judged night; knows no terminal and no format."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.compare import Difference, differences
from bench.errors import BaselineError, UsageError
from bench.gate.baseline import Baseline
from bench.gate.earlier import earlier_runs
from bench.gate.files import FOLDER, baseline_names, load_baseline
from bench.gate.levels import accepted_runs, apply_levels, tell_levels
from bench.gate.past import (
    Cuts,
    PastRun,
    add_runs,
    conditions_by_name,
    merge_past,
    value_history,
)
from bench.gate.records import Side, identify, label_records, read_run
from bench.gate.values import GateSettings, Measured, Verdicts
from bench.gate.verdicts import judge
from bench.record import NumericsPlan, Record
from bench.spec import Cell
from bench.store import Store, open_store


@dataclass(frozen=True)
class Night:
    """A comparison with everything that is told of it.

    Attributes:
        changes: Versions, driver, revision that differ between the sides as wholes.
    """

    baseline: Side
    candidate: Side
    settings: GateSettings
    verdicts: Verdicts
    changes: tuple[Difference, ...]


@dataclass(frozen=True)
class Candidate:
    """What is judged.

    Attributes:
        title: For people.
        now: Request keys of records that this very command measured.
        repeats: The run itself and the further ones that count for its costs, in short, oldest
            first; empty where it is the only one.
        past: Runs before all of these.
    """

    title: str
    records: tuple[Record, ...]
    now: frozenset[str] = frozenset()
    repeats: tuple[PastRun, ...] = ()
    past: tuple[PastRun, ...] = ()


def find_candidate(
    baseline: Baseline, asked: str | None, store: str | None, *, num_runs: int = 1
) -> Candidate:
    """Return the records to judge: of another baseline, or of a store's latest run of that suite.

    Args:
        baseline: Gives the suite.
        asked: Name of a baseline, file name or URL of a store; None is the store.
        store: The store to take where none is asked for; None is the default one.
        num_runs: How many of the store's newest runs count for speed and memory.

    Raises:
        UsageError: It is neither, that store has no run of the suite, or too few.
        StoreError: The store cannot be read.
    """
    if asked is not None and asked in baseline_names():
        other = load_baseline(asked)
        repeats = other.past[-other.num_runs :] if other.num_runs > 1 else ()
        return Candidate(f"baseline {asked}", other.records, repeats=repeats)
    if asked is not None and "://" not in asked and not Path(asked).is_file():
        raise UsageError(
            f"'{asked}' is neither a baseline in {FOLDER} nor a file of a store. "
            f"Known baselines: {', '.join(baseline_names()) or 'none'}."
        )
    with open_store(asked or store, create=False) as opened:
        opened.check_suite(baseline.suite)
        runs = [run.id for run in opened.runs(baseline.suite)]
        if len(runs) < num_runs:
            raise UsageError(
                f"{num_runs} runs are wished for, but {opened.name} has {len(runs)} of suite "
                f"'{baseline.suite}'. Measure more: bench run SUITE --repeat {num_runs}"
            )
        return read_candidate(opened, baseline, runs[-num_runs:])


def read_candidate(
    store: Store,
    baseline: Baseline,
    run_ids: Sequence[int],
    now: frozenset[str] = frozenset(),
) -> Candidate:
    """Return what runs of a store give to a comparison with a baseline.

    Args:
        store: Holds the runs.
        baseline: Gives the cells and what they are called.
        run_ids: Oldest first: the last is judged, the others count for its speed and memory too.
        now: See `Candidate`.
    """
    records = tuple(store.whole_records(run_ids[-1]))
    names = label_records(records, label_records(baseline.records))
    runs = earlier_runs(store, baseline.suite, names)
    tonight = tuple(run for run in runs if run.run_id in run_ids)
    title = f"run {run_ids[-1]} of {store.name}"
    return Candidate(
        title=title if len(run_ids) == 1 else f"{title} and {len(run_ids) - 1} before it",
        records=records,
        now=now,
        repeats=tonight if len(run_ids) > 1 else (),
        past=tuple(run for run in runs if run.run_id < run_ids[0]),
    )


def baseline_plans(baseline: Baseline) -> Callable[[Cell, str], Mapping[str, NumericsPlan]]:
    """Return what gives the numerics plans that a cell had in a baseline, on a class of device.

    A run that is compared with it reuses them, whatever the seed, and under other versions or
    weights too: near-ties would flip from night to night, and from one machine of a class to
    another. Compiled ones are left out: there is a compiler to be had first.
    """
    found: dict[tuple[str, str], dict[str, NumericsPlan]] = {}
    for record in baseline.records:
        if record.effective is None or record.environment is None:
            continue
        plans = {"forward": record.effective.forward, "train": record.effective.train}
        place = identify(record.cell), record.environment.device_class
        found[place] = {
            name: plan for name, plan in plans.items() if plan is not None and not plan.compiled
        }

    def plans_of(cell: Cell, device_class: str) -> Mapping[str, NumericsPlan]:
        return found.get((identify(cell), device_class), {})

    return plans_of


def check_suite(baseline: Baseline, suite: str) -> None:
    """Return when a baseline is of that suite.

    Raises:
        BaselineError: It is of another one.
    """
    if baseline.suite != suite:
        raise BaselineError(
            f"baseline '{baseline.name}' is of suite '{baseline.suite}', not of '{suite}': "
            "nothing in it can be compared"
        )


def compare_night(baseline: Baseline, candidate: Candidate, settings: GateSettings) -> Night:
    """Return the verdicts on a candidate, and what is told beside them.

    Raises:
        UsageError: A cell or a seed occurs twice on one side.
    """
    names = label_records(baseline.records)
    labels = label_records(candidate.records, names)
    before = read_run(baseline.records, names, title=_title(baseline))
    after = read_run(candidate.records, labels, title=candidate.title, now=candidate.now)
    reference = conditions_by_name(baseline.records, names)
    shared = baseline.past[-baseline.num_runs : -1] if baseline.num_runs > 1 else ()
    before = apply_levels(_pooled(before, reference, shared), baseline.accepted)
    after = _pooled(after, conditions_by_name(candidate.records, labels), candidate.repeats[:-1])
    own = {run.scope for run in candidate.repeats}
    past = [run for run in merge_past(baseline.past, candidate.past) if run.scope not in own]
    chosen = baseline.past[-1].scope if baseline.past else ""
    cuts = Cuts(chosen, accepted_runs(baseline.accepted))
    history = value_history(past, reference, tonight=candidate.repeats, cuts=cuts)
    judged = judge(before.cells, after.cells, settings, history)
    verdicts = tell_levels(judged, baseline.accepted)
    changes = tuple(differences(_versions(before.cells), _versions(after.cells)))
    return Night(before, after, settings, verdicts, changes)


def _title(baseline: Baseline) -> str:
    count = len(baseline.accepted)
    since = f" with {count} {'level' if count == 1 else 'levels'} accepted since" if count else ""
    return f"baseline {baseline.name}{since}"


def _pooled(side: Side, reference: Mapping[str, str], runs: Sequence[PastRun]) -> Side:
    """Return a side whose costs count further runs under the conditions of its own."""
    cells = tuple(add_runs(cell, reference[cell.cell], runs) for cell in side.cells)
    return replace(side, cells=cells)


def _versions(cells: Sequence[Measured]) -> Mapping[str, str]:
    """Return every version of a side; several of one thing are all named."""
    found: dict[str, dict[str, None]] = {}
    for cell in cells:
        own = {**cell.versions, "device class": cell.device_class or "unknown"}
        for name, version in own.items():
            found.setdefault(name, {})[version] = None
    return {name: " + ".join(versions) for name, versions in found.items()}
