"""`bench run`: a suite file in; live progress, a table, a report and an exit code out."""

import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.errors import UsageError

if TYPE_CHECKING:
    from bench.gate.baseline import Baseline
    from bench.gate.night import Candidate, Night
    from bench.gate.trends import History
    from bench.record import Record
    from bench.spec import Cell
    from bench.store import Store
    from bench.summary import RecordSummary
    from bench.survey import CellSurvey
    from bench.sweep import PlansOf, SweepOptions, SweepResult

EXIT_INCOMPLETE = 3
_WIDTH_OF_LOGS = 100


def run(
    suite: Annotated[Path, typer.Argument(help="The suite file, e.g. suites/vision.yaml.")],
    only: Annotated[
        str | None, typer.Option(help="Run cells that match this name, glob or piece of a label.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Run these of the suite's seeds: 0,1.")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Cells at once; one per device by default.")
    ] = None,
    executor: Annotated[str, typer.Option(help="Where cells run: local.")] = "local",
    store: Annotated[
        str | None, typer.Option(help="Database file or URL; BENCH_STORE or results/bench.db.")
    ] = None,
    report: Annotated[Path, typer.Option(help="Folder that gets <suite>/index.html.")] = Path(
        "report"
    ),
    new: Annotated[bool, typer.Option("--new", help="Start a new run, measure all again.")] = False,
    repeat: Annotated[
        int | None,
        typer.Option(min=1, help="Measure all so many times, each a new run: shows the noise."),
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Baseline to judge a new run by; see bench compare.")
    ] = None,
    min_effect: Annotated[str, typer.Option(help="With --against: see bench compare.")] = "",
    alpha: Annotated[float, typer.Option(help="With --against: see bench compare.")] = 0.05,
) -> None:
    """Sweep a suite: run what its latest run lacks, print the table, write the report.

    Exits with 0 when every cell is ok, 3 when any failed or is missing; with --against as bench
    compare does.
    """
    from bench.plan import parse_seeds, plan_cells, select_cells
    from bench.store import open_store
    from bench.suite import load_suite
    from bench.survey import survey_cells
    from bench.sweep import SweepOptions

    _check_executor(executor)
    loaded = load_suite(suite)
    if against is not None and (only is not None or seeds is not None):
        raise UsageError("--against judges the whole suite: leave out --only and --seeds")
    gate = None if against is None else _Gate(against, min_effect, alpha, loaded.name)
    chosen_seeds = None if seeds is None else parse_seeds(seeds)
    planned = plan_cells(loaded)
    cells = select_cells(planned, only=only, seeds=chosen_seeds)
    with open_store(store) as opened:
        surveys = survey_cells(cells, records=opened.summaries(loaded.name))
        _stop_if_missing(surveys)
        options = SweepOptions(
            new=new or gate is not None or repeat is not None,
            limits=loaded.limits,
            project_dir=str(suite.resolve().parent),
            plans=None if gate is None else gate.plans,
        )
        results = _sweep_repeatedly(surveys, opened, options, jobs, repeat or 1)
        result = results[-1]
        records = _records_of(opened, result, planned)
        night = None if gate is None else gate.judge(opened, results)
        history = _history_of(opened, loaded.name)
        wholes = _wholes_of(opened, records)
    _print_table(records)
    _print_ending(result)
    folder = report / loaded.name
    _write_report(records, suite, folder, night=night, history=history, wholes=wholes)
    if night is not None:
        _tell_night(night, report / loaded.name)
    code = _exit_code(results, night, judged=gate is None or night is not None)
    if code:
        raise typer.Exit(code)


def _exit_code(results: "Sequence[SweepResult]", night: "Night | None", *, judged: bool) -> int:
    """Return the command's exit code: a regression goes before anything that is missing."""
    code = 0 if night is None else night.verdicts.exit_code
    complete = judged and all(each.complete for each in results)
    return code if code == 1 or complete else EXIT_INCOMPLETE


class _Gate:
    """A baseline that was read, and settings that were checked, before any work."""

    def __init__(self, name: str, min_effect: str, alpha: float, suite: str) -> None:
        from bench.cli.compare import gate_settings
        from bench.gate.files import load_baseline
        from bench.gate.night import check_suite

        self._settings = gate_settings(min_effect, alpha)
        self._baseline = load_baseline(name)
        check_suite(self._baseline, suite)

    @property
    def plans(self) -> "PlansOf":
        """The numerics to measure by."""
        from bench.gate.night import baseline_plans

        return baseline_plans(self._baseline)

    def judge(self, store: "Store", results: "Sequence[SweepResult]") -> "Night | None":
        """Return the verdicts on the last run that was just measured; None where it cannot be read.

        All of them count for its costs.
        """
        from bench.errors import StoreUnavailableError
        from bench.gate.night import compare_night

        try:
            candidate = _read_night(store, self._baseline, results)
        except StoreUnavailableError as error:
            name = self._baseline.name
            print(
                f"error: this run was not judged by {name}: {error} When the store answers "
                f"again: bench store sync, then bench compare {name}",
                file=sys.stderr,
            )
            return None
        return compare_night(self._baseline, candidate, self._settings)


def _read_night(
    store: "Store", baseline: "Baseline", results: "Sequence[SweepResult]"
) -> "Candidate":
    """Return the last run, with every record of its sweep.

    Raises:
        StoreUnavailableError: The store does not answer, or records of it are in the spool.
    """
    from bench.errors import StoreUnavailableError
    from bench.gate.night import read_candidate

    now = frozenset(record.request_key for record in results[-1].records)
    candidate = read_candidate(store, baseline, [result.run.id for result in results], now)
    waiting = now - {record.request_key for record in candidate.records}
    if waiting:
        raise StoreUnavailableError(f"{len(waiting)} of its records wait in the spool.")
    return candidate


def _tell_night(night: "Night", folder: Path) -> None:
    from bench.cli.compare import print_night, write_night

    print_night(night)
    write_night(
        night,
        markdown=str(folder / "gate.md"),
        json=folder / "gate.json",
        junit=folder / "gate.xml",
    )
    print(f"gate: {folder / 'gate.md'}, gate.json and gate.xml")


def _check_executor(name: str) -> None:
    if name != "local":
        raise UsageError(f"no executor '{name}'. Known: local.")


def _stop_if_missing(surveys: "Sequence[CellSurvey]") -> None:
    """Exit before any work where something is not here and no run could fetch it."""
    from bench.environment import is_offline
    from bench.survey import find_blocking

    blocking = find_blocking(surveys, offline=is_offline())
    for lack in blocking:
        print(f"error: missing: {lack.what}. To get it: {lack.how}", file=sys.stderr)
    if blocking:
        raise typer.Exit(EXIT_INCOMPLETE)


def _sweep(
    surveys: "Sequence[CellSurvey]", store: "Store", options: "SweepOptions", jobs: int | None
) -> "SweepResult":
    from rich.console import Console

    from bench.cli.live import watch
    from bench.executors.devices import choose_devices
    from bench.executors.local import LocalExecutor
    from bench.sweep import run_sweep

    cells = [survey.cell for survey in surveys]
    estimates = {survey.cell: survey.estimated_seconds for survey in surveys}
    with (
        LocalExecutor(choose_devices(), jobs=jobs) as local,
        watch(Console(stderr=True), jobs=local.jobs, estimates=estimates) as observer,
    ):
        return run_sweep(cells, store=store, executor=local, options=options, observer=observer)


def _sweep_repeatedly(
    surveys: "Sequence[CellSurvey]",
    store: "Store",
    options: "SweepOptions",
    jobs: int | None,
    repeat: int,
) -> "Sequence[SweepResult]":
    """Sweep so many times, until one is stopped; at least one result."""
    results: list[SweepResult] = []
    for turn in range(repeat):
        if repeat > 1:
            options = replace(options, note=f"repeat {turn + 1} of {repeat}")
            print(f"repeat {turn + 1} of {repeat}", file=sys.stderr)
        results.append(_sweep(surveys, store, options, jobs))
        if results[-1].stopped_by is not None:
            break
    return results


def _records_of(
    store: "Store", result: "SweepResult", cells: "Sequence[Cell]"
) -> "Sequence[RecordSummary]":
    """Return the run's records, or those of this sweep where the store is gone."""
    from bench.errors import StoreUnavailableError

    try:
        return store.summaries(run_id=result.run.id, cells=cells)
    except StoreUnavailableError as error:
        print(f"warning: {error} The table has this sweep's records only.", file=sys.stderr)
        return result.records


def _print_table(records: "Sequence[RecordSummary]") -> None:
    from bench.tables import failed_cells, summarise
    from bench.tables.terminal import terminal_text

    if records:
        width = shutil.get_terminal_size((_WIDTH_OF_LOGS, 24)).columns
        rows, failures = summarise(records), failed_cells(records)
        print(terminal_text(rows, failures, width=width, colour=sys.stdout.isatty()))


def _history_of(store: "Store", suite: str) -> "History | None":
    """Return what the report shows of earlier runs; None where the store is gone."""
    from bench.errors import StoreUnavailableError
    from bench.gate.chronicle import FEW_RECORDS, read_history

    try:
        return read_history(store, suite, most_records=FEW_RECORDS)
    except StoreUnavailableError:
        return None  # Of which the table has told already.


def _wholes_of(store: "Store", records: "Sequence[RecordSummary]") -> "Sequence[Record]":
    """Return a whole record per dataset for the report; none where the store is gone."""
    from bench.errors import StoreUnavailableError

    try:
        return store.one_per_dataset(records)
    except StoreUnavailableError:
        return ()


def _write_report(
    records: "Sequence[RecordSummary]",
    suite_file: Path,
    directory: Path,
    *,
    night: "Night | None",
    history: "History | None",
    wholes: "Sequence[Record]",
) -> None:
    """Write the page into a folder that is named as the suite is."""
    from bench.report import write_report

    if records:
        command = shlex.join(["bench", "run", str(suite_file)])
        name = directory.name
        path = write_report(
            records,
            directory,
            suite=name,
            command=command,
            night=night,
            history=history,
            wholes=wholes,
        )
        print(f"report: {path}")


def _print_ending(result: "SweepResult") -> None:
    """Say what ran, and how to go on where something is left to do."""
    count = len(result.records)
    parts = [f"{count} {'cell' if count == 1 else 'cells'} run"]
    if result.num_failed:
        parts.append(f"{result.num_failed} of them not ok")
    held = result.num_held + result.num_recalled
    if held:
        parts.append(f"{held} held from before")
    if result.num_missing:
        parts.append(f"{result.num_missing} without a result")
    print(f"run {result.run.id}: {', '.join(parts)}")
    if result.num_undelivered:
        print(
            f"{result.num_undelivered} records could not be delivered to the store and are kept "
            "here. When it answers again: bench store sync"
        )
    if result.stopped_by is not None:
        why = {"interrupt": "interrupted", "total_time": "limits.total_time is used up"}
        # A new run would measure again what this one has already.
        again = shlex.join(["bench", *(word for word in sys.argv[1:] if word != "--new")])
        print(f"{why[result.stopped_by]}: what had finished is kept. Go on with: {again}")
