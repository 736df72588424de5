"""``bench report``: the HTML report again."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.compare import gate_settings, write_page
from bench.collector import collector_paused

if TYPE_CHECKING:
    from bench.gate.values import GateSettings


@collector_paused()
def report(
    suite: Annotated[str | None, typer.Argument(help="Suite; by default every one.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of reports.")] = Path(
        "report"
    ),
    store: Annotated[str | None, typer.Option(help="Database: file name or URL.")] = None,
    against: Annotated[
        str | None, typer.Option(help="Baseline: adds the verdicts of bench compare.")
    ] = None,
    min_effect: Annotated[str, typer.Option(help="With --against: see bench compare.")] = "",
    alpha: Annotated[float, typer.Option(help="With --against: see bench compare.")] = 0.05,
) -> None:
    """Write <folder>/<suite>/index.html from what is stored; it opens without a network.

    With --against the suite is the baseline's, and the page has its verdicts; they are no failure
    of this command, which exits with 0: bench compare exits with theirs.
    """
    from bench.gate.chronicle import FEW_RECORDS, read_history
    from bench.report import write_report
    from bench.store import open_store

    if against is not None:
        print(_report_against(against, suite, output, store, gate_settings(min_effect, alpha)))
        return
    with open_store(store, create=False) as opened:
        if suite is not None:
            opened.check_suite(suite)
        for name in [suite] if suite is not None else opened.suites():
            command = f"bench run suites/{name}.yaml"
            records = opened.summaries(name)
            path = write_report(
                records,
                output / name,
                suite=name,
                command=command,
                history=read_history(opened, name, most_records=FEW_RECORDS),
                wholes=opened.one_per_dataset(records),
            )
            print(path)


def _report_against(
    name: str, suite: str | None, folder: Path, store: str | None, settings: "GateSettings"
) -> Path:
    from bench.gate.chronicle import FEW_RECORDS, read_history
    from bench.gate.files import load_baseline
    from bench.gate.night import check_suite, compare_night, find_candidate
    from bench.store import open_store

    baseline = load_baseline(name)
    if suite is not None:
        check_suite(baseline, suite)
    candidate = find_candidate(baseline, None, store)
    with open_store(store, create=False) as opened:
        history = read_history(opened, baseline.suite, most_records=FEW_RECORDS)
    return write_page(candidate, compare_night(baseline, candidate, settings), folder, history)
