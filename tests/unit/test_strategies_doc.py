"""docs/strategies.md says what there is, and its suites load."""

import re
from pathlib import Path

import pytest

from bench import load_suite, plan_cells
from bench.registry import STRATEGIES, strategy

DOC = (Path(__file__).parents[2] / "docs" / "strategies.md").read_text(encoding="utf-8")
TABLE = DOC.partition("## On frozen features")[0]
EXAMPLES = re.findall(r"```yaml\n(.*?)```", DOC, re.DOTALL)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_has_one_row_in_the_table_and_one_line_in_the_list(name: str) -> None:
    assert len(re.findall(rf"^\| `{name}` \|", TABLE, re.MULTILINE)) == 1
    summary = strategy(name).summary
    assert "\n" not in summary and len(summary) > 60


def test_the_examples_load(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    heads = {
        "name: few-shot": "",
        "strategies:": "name: x\nbackbones: [packaged/efficientnet-lite0]\ndatasets: [digits]\n",
    }
    counts = []
    for example in EXAMPLES:
        head = next(text for start, text in heads.items() if example.startswith(start))
        path.write_text(head + example)
        counts.append(len(plan_cells(load_suite(path))))
    assert counts == [5, 2, 3 * 10 * 4]
