"""Baselines in their folder: saved, listed and found by name; knows no verdict."""

import re
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path

import bench
from bench.artifacts import write_atomically
from bench.errors import ArtifactError, BaselineError, UsageError
from bench.gate.baseline import Baseline, dump_baseline, parse_baseline
from bench.gate.records import incomplete
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


def take_baseline(
    store: Store, suite: str, name: str, *, note: str = "", allow_failed: bool = False
) -> Baseline:
    """Return the latest run of a suite as a baseline.

    Raises:
        UsageError: No such suite, an empty run, or an incomplete one that is not allowed.
    """
    store.check_suite(suite)
    run = store.latest_run(suite)
    records = store.whole_records(run.id) if run else []
    if run is None or not records:
        raise UsageError(f"the latest run of suite '{suite}' in {store.name} holds no record")
    lacks = incomplete(records)
    if lacks and not allow_failed:
        named = "".join(f"\n  {lack}" for lack in lacks[:_MOST_NAMED])
        more = f"\n  and {len(lacks) - _MOST_NAMED} more" if len(lacks) > _MOST_NAMED else ""
        raise UsageError(
            f"run {run.id} of suite '{suite}' is incomplete, so it is no baseline:{named}{more}\n"
            "Run what is missing, or keep it so with --allow-failed."
        )
    now = datetime.now(UTC).replace(microsecond=0)
    return Baseline(name, suite, now, bench.__version__, run.id, note, tuple(records))


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
