"""``bench compare``: a run against a baseline; table, files and an exit code out."""

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.errors import UsageError

if TYPE_CHECKING:
    from bench.gate.night import Candidate, Night
    from bench.gate.trends import History
    from bench.gate.values import GateSettings

_WIDTH_OF_LOGS = 120
_NO_PAGE = "no report: the candidate holds no record"


def compare(
    baseline: Annotated[str, typer.Argument(help="Name of a baseline.")],
    candidate: Annotated[
        str | None,
        typer.Argument(help="Another baseline, or a store; by default the store's newest run."),
    ] = None,
    min_effect: Annotated[
        str, typer.Option(help="Smallest effects that count: accuracy=0.5pt,throughput=5%.")
    ] = "",
    alpha: Annotated[float, typer.Option(help="Chance of any false alarm in a night.")] = 0.05,
    every: Annotated[
        bool, typer.Option("--all", help="Show unchanged and inconclusive rows too.")
    ] = False,
    markdown: Annotated[
        str | None,
        typer.Option(help="File, or - for standard output; the job summary of CI is appended to."),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="File for full numbers.")] = None,
    junit: Annotated[Path | None, typer.Option(help="File for JUnit XML.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Folder that gets <suite>/index.html with the verdicts.")
    ] = None,
    store: Annotated[str | None, typer.Option(help="Database: file name or URL.")] = None,
    runs: Annotated[
        int, typer.Option(min=1, help="So many of the newest runs make speed and memory.")
    ] = 1,
) -> None:
    """Compare a run with a baseline.

    Exits with 0 when nothing is wrong, 1 on a regression, 3 when cells failed or are missing, 4
    when something, or the baseline itself, cannot be compared.
    """
    from bench.gate.files import load_baseline
    from bench.gate.night import compare_night, find_candidate

    settings = gate_settings(min_effect, alpha)
    kept = load_baseline(baseline)
    found = find_candidate(kept, candidate, store, num_runs=runs)
    night = compare_night(kept, found, settings)
    if markdown != "-":
        print_night(night, every=every)
    write_night(night, markdown=markdown, json=json, junit=junit)
    if report is not None:
        told = f"report: {write_page(found, night, report)}" if found.records else _NO_PAGE
        print(told, file=sys.stderr if markdown == "-" else sys.stdout)
    raise typer.Exit(night.verdicts.exit_code)


def gate_settings(min_effect: str, alpha: float) -> "GateSettings":
    """Return the settings of the flags.

    Raises:
        UsageError: A flag is not a minimum effect, or not a probability.
    """
    from bench.gate import GateSettings, parse_min_effects

    if not 0 < alpha < 1:
        raise UsageError(f"--alpha {alpha:g} is not between 0 and 1")
    return GateSettings(alpha=alpha, min_effects=parse_min_effects(min_effect))


def print_night(night: "Night", *, every: bool = False) -> None:
    """Print the table of verdicts."""
    from bench.tables.verdicts import verdicts_text

    width = shutil.get_terminal_size((_WIDTH_OF_LOGS, 24)).columns
    print(verdicts_text(night, width=width, colour=sys.stdout.isatty(), every=every), end="")


def write_night(
    night: "Night", *, markdown: str | None, json: Path | None, junit: Path | None
) -> None:
    """Write the files asked for."""
    from bench.tables import write_output
    from bench.tables.gate_files import verdicts_json, verdicts_junit
    from bench.tables.verdicts import verdicts_markdown

    if markdown == "-":
        print(verdicts_markdown(night), end="")
    elif markdown is not None:
        _write_markdown(Path(markdown), verdicts_markdown(night))
    if json is not None:
        write_output(json, verdicts_json(night).encode())
    if junit is not None:
        write_output(junit, verdicts_junit(night).encode())


def _write_markdown(path: Path, text: str) -> None:
    """Write the file, or append to it where it is the summary that steps of a CI job share."""
    from bench.tables import write_output

    shared = os.environ.get("GITHUB_STEP_SUMMARY")
    held = path.read_bytes() if shared and path == Path(shared) and path.exists() else b""
    write_output(path, held + text.encode())


def write_page(
    candidate: "Candidate", night: "Night", folder: Path, history: "History | None" = None
) -> Path:
    """Write <folder>/<suite>/index.html of the candidate, with the verdicts on it.

    Args:
        candidate: Whose records the page shows.
        night: Its verdicts.
        folder: Of reports.
        history: All runs of the suite; None leaves out how they went.

    Raises:
        UsageError: The candidate has no record, or the folder cannot be written.
    """
    from bench.report import write_report

    suite = night.baseline.suite
    command = shlex.join(["bench", "run", f"suites/{suite}.yaml"])
    return write_report(
        candidate.records,
        folder / suite,
        suite=suite,
        command=command,
        night=night,
        history=history,
        wholes=candidate.records,
    )
