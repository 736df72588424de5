"""``bench report``: the HTML report again."""

from pathlib import Path
from typing import Annotated

import typer

from bench.collector import collector_paused


@collector_paused()
def report(
    suite: Annotated[str | None, typer.Argument(help="Suite; by default every one.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of reports.")] = Path(
        "report"
    ),
    store: Annotated[str | None, typer.Option(help="Database: file name or URL.")] = None,
) -> None:
    """Write <folder>/<suite>/index.html from what is stored; it opens without a network."""
    from bench.gate.chronicle import FEW_RECORDS, read_history
    from bench.report import write_report
    from bench.store import open_store

    with open_store(store, create=False) as opened:
        if suite is not None:
            opened.check_suite(suite)
        for name in [suite] if suite is not None else opened.suites():
            command = f"bench run suites/{name}.yaml"
            path = write_report(
                opened.summaries(name),
                output / name,
                suite=name,
                command=command,
                history=read_history(opened, name, most_records=FEW_RECORDS),
            )
            print(path)
