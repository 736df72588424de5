"""A baseline and what is compared with it -> a judged night; knows no terminal and no format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.compare import Difference, differences
from bench.errors import BaselineError, UsageError
from bench.gate.baseline import Baseline
from bench.gate.files import FOLDER, baseline_names, load_baseline
from bench.gate.records import Side, label_records, read_run
from bench.gate.values import GateSettings, Measured, Verdicts
from bench.gate.verdicts import judge
from bench.record import Record
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
    """

    title: str
    records: tuple[Record, ...]
    now: frozenset[str] = frozenset()


def find_candidate(baseline: Baseline, asked: str | None, store: str | None) -> Candidate:
    """Return the records to judge: of another baseline, or of a store's latest run of that suite.

    Args:
        baseline: Gives the suite.
        asked: Name of a baseline, file name or URL of a store; None is the store.
        store: The store to take where none is asked for; None is the default one.

    Raises:
        UsageError: It is neither, or that store has no run of the suite.
        StoreError: The store cannot be read.
    """
    if asked is not None and asked in baseline_names():
        other = load_baseline(asked)
        return Candidate(f"baseline {asked}", other.records)
    if asked is not None and "://" not in asked and not Path(asked).is_file():
        raise UsageError(
            f"'{asked}' is neither a baseline in {FOLDER} nor a file of a store. "
            f"Known baselines: {', '.join(baseline_names()) or 'none'}."
        )
    with open_store(asked or store, create=False) as opened:
        opened.check_suite(baseline.suite)
        run = opened.latest_run(baseline.suite)
        return read_candidate(opened, run.id if run else 0)


def read_candidate(store: Store, run_id: int, now: frozenset[str] = frozenset()) -> Candidate:
    """Return the records of a run of a store; see `Candidate`."""
    return Candidate(f"run {run_id} of {store.name}", tuple(store.whole_records(run_id)), now)


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
    title = f"baseline {baseline.name}"
    before = read_run(baseline.records, names, title=title)
    labels = label_records(candidate.records, names)
    after = read_run(candidate.records, labels, title=candidate.title, now=candidate.now)
    verdicts = judge(before.cells, after.cells, settings)
    changes = tuple(differences(_versions(before.cells), _versions(after.cells)))
    return Night(before, after, settings, verdicts, changes)


def _versions(cells: Sequence[Measured]) -> Mapping[str, str]:
    """Return every version of a side; several of one thing are all named."""
    found: dict[str, dict[str, None]] = {}
    for cell in cells:
        own = {**cell.versions, "device class": cell.device_class or "unknown"}
        for name, version in own.items():
            found.setdefault(name, {})[version] = None
    return {name: " + ".join(versions) for name, versions in found.items()}
