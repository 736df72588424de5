"""Baselines in their folder: saved, listed and found by name; knows no verdict."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path

import bench
from bench.errors import ArtifactError, BaselineError, UsageError
from bench.files import write_atomically
from bench.gate.baseline import Baseline, dump_baseline, parse_baseline
from bench.gate.earlier import earlier_runs
from bench.gate.past import PastRun, past_like
from bench.gate.records import incomplete, label_records
from bench.store import Store

FOLDER = Path("results/baselines")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_MOST_NAMED = 5


def baseline_path(name: str, folder: Path = FOLDER) -> Path:
    """Return where a baseline lies.

    Raises:
        UsageError: The name could leave the folder, or is none.
    """
    if not _NAME.fullmatch(name) or name.endswith(".json"):
        raise UsageError(
            f"{name!r} is no name for a baseline: up to 80 letters, digits, '.', '_' and '-', the "
            "first a letter or digit, without .json"
        )
    return folder / f"{name}.json"


@dataclass(frozen=True)
class Wishes:
    """How a baseline is taken.

    Attributes:
        note: Why, kept with it.
        allow_failed: Whether an incomplete run will do.
        num_runs: How many of the newest runs make the reference of speed and memory; what is
            predicted is that of the newest.
    """

    note: str = ""
    allow_failed: bool = False
    num_runs: int = 1


def take_baseline(store: Store, suite: str, name: str, wishes: Wishes | None = None) -> Baseline:
    """Return the latest run of a suite as a baseline, with what earlier ones tell of the spread.

    Raises:
        UsageError: No such suite, an empty run, an incomplete one that is not allowed, or fewer
            runs under equal conditions than wished.
    """
    wishes = wishes or Wishes()
    store.check_suite(suite)
    run = store.latest_run(suite)
    records = store.whole_records(run.id) if run else []
    if run is None or not records:
        raise UsageError(f"the latest run of suite '{suite}' in {store.name} holds no record")
    lacks = incomplete(records)
    if lacks and not wishes.allow_failed:
        named = "".join(f"\n  {lack}" for lack in lacks[:_MOST_NAMED])
        more = f"\n  and {len(lacks) - _MOST_NAMED} more" if len(lacks) > _MOST_NAMED else ""
        raise UsageError(
            f"run {run.id} of suite '{suite}' is incomplete, so it is no baseline:{named}{more}\n"
            "Run what is missing, or keep it so with --allow-failed."
        )
    names = label_records(records)
    past = past_like(earlier_runs(store, suite, names), records, names)
    check_num_runs(past, wishes.num_runs, suite)
    return Baseline(
        name=name,
        suite=suite,
        saved_at=datetime.now(UTC).replace(microsecond=0),
        bench_version=bench.__version__,
        run_id=run.id,
        note=wishes.note,
        records=tuple(records),
        past=past,
        num_runs=wishes.num_runs,
    )


def check_num_runs(past: Sequence[PastRun], wished: int, suite: str) -> None:
    """Return when there are as many runs as wished.

    Raises:
        UsageError: There are fewer.
    """
    if wished > 1 and len(past) < wished:
        raise UsageError(
            f"{wished} runs are wished for, but suite '{suite}' has {len(past)} under equal "
            f"conditions. Measure more: bench run SUITE --repeat {wished}"
        )


def save_baseline(baseline: Baseline, folder: Path = FOLDER) -> Path:
    """Write a baseline, whole or not at all; one of that name is replaced.

    Raises:
        UsageError: Its name is none, or it cannot be written there.
    """
    path = baseline_path(baseline.name, folder)
    try:
        write_atomically(path, dump_baseline(baseline).encode())
        # A temporary file is private; a committed one is for everybody.
        path.chmod(0o644)
    except (ArtifactError, OSError) as error:
        raise UsageError(f"cannot write {path}: {error}") from error
    return path


def baseline_names(folder: Path = FOLDER) -> list[str]:
    """Return the names of all baselines, sorted."""
    return sorted(path.stem for path in folder.glob("*.json"))


def load_baseline(name: str, folder: Path = FOLDER) -> Baseline:
    """Return a baseline by its name.

    Raises:
        UsageError: The name is none.
        BaselineError: There is none of that name, or it cannot be read.
    """
    path = baseline_path(name, folder)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        known = baseline_names(folder)
        close = get_close_matches(name, known, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise BaselineError(
            f"no baseline '{name}' in {folder}.{hint} Known: {', '.join(known) or 'none'}. "
            f"Save one with: bench baseline save {name}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BaselineError(f"cannot read {path}: {error}") from error
    return parse_baseline(text, str(path))
