"""Write the golden files anew: ``python -m tests.golden.update``; look at the difference."""

import re
from pathlib import Path

from bench.record import Record
from bench.report.page import render_page
from bench.tables import failed_cells, render, summarise
from bench.tables.terminal import terminal_text
from tests.records import drawn_outcomes, failed_records, make_record, vision_records

GOLDEN = Path(__file__).parent


def golden_records() -> list[Record]:
    """Return the records behind the golden files; the hostile one has no outcomes per example."""
    hostile = make_record(
        backbone="folder/<b>&_|^~%$#{}\\", dataset="digits", strategy="full", accuracy=0.5
    )
    measured = map(drawn_outcomes, vision_records(seeds=(0, 1)))
    return [*measured, *failed_records(), hostile]


def golden_texts() -> dict[str, str]:
    """Return file name -> what the renderers make of the golden records."""
    records = golden_records()
    rows = summarise(records)
    texts = {
        "table.md": render(rows, "markdown").decode(),
        "table.tex": render(rows, "latex").decode(),
    }
    for width in (100, 60):
        texts[f"table_{width}.txt"] = terminal_text(rows, failed_cells(records), width=width)
    return texts


def golden_page() -> str:
    """Return the page of a few golden records, without the style and script of our own."""
    few = [r for r in golden_records() if r.cell.seed == 0 and _is_in_page(r)]
    command = "bench run suites/vision.yaml"
    page = render_page(few, suite="vision", command=command, notes=["Note."], wholes=few)
    return re.sub(r"(<(style|script)>).*?(</\2>)", r"\1\3", page, flags=re.DOTALL)


def _is_in_page(record: Record) -> bool:
    skipped = ("efficientnet-lite1", "efficientnet-lite2")
    return record.cell.dataset.name == "digits" and not record.cell.backbone.name.endswith(skipped)


if __name__ == "__main__":
    for name, text in golden_texts().items():
        (GOLDEN / name).write_text(text)
    (GOLDEN / "page.html").write_text(golden_page())
