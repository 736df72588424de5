"""docs/protocols.md: its suites load, its file of splits is one, and every word of it is known."""

import json
import re
from pathlib import Path

import pytest

from bench import load_suite, plan_cells
from bench.datasets.split_files import SplitFile
from bench.spec import DatasetSpec, Suite

DOC = (Path(__file__).parents[2] / "docs" / "protocols.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", DOC, re.DOTALL)
FILES = re.findall(r"```json\n(.*?)```", DOC, re.DOTALL)
ROWS = re.findall(r"^\| `(\w+): [^|]*` \| ([\w, ]+) \|", DOC, re.MULTILINE)


@pytest.mark.parametrize(("text", "count"), list(zip(EXAMPLES, (2 * 2 * (5 + 1), 5), strict=True)))
def test_the_examples_load(tmp_path: Path, text: str, count: int) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    assert len(plan_cells(load_suite(path))) == count


def test_the_file_of_splits_is_one() -> None:
    (text,) = FILES
    (draw,) = SplitFile.model_validate(json.loads(text)).draws
    assert draw.seed is None and draw.val == ("img/3.png",)


def test_every_field_stands_where_the_table_says() -> None:
    assert len(ROWS) == 6
    for name, places in ROWS:
        assert ("dataset" in places) == (name in DatasetSpec.model_fields)
        assert ("suite" in places) == (name in Suite.model_fields)
