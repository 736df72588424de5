import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest

from bench import open_store, plan_cells
from bench.cli import main
from bench.cli.plan import _print_cells
from bench.environment import device_class
from bench.suite import load_suite
from bench.survey import request_key
from tests.records import make_record
from tests.suite_plugins import TINY_NAMES, TinyBackbones, registered_plugins

SUITE = """\
name: little
backbones: [tiny/resnet18]
datasets: [digits]
strategies: [dial, turn]
seeds: [0, 1]
"""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


Bench = Callable[..., Done]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    def call(*args: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["bench", *map(str, args)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return Done(code, out, err)

    return call


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder, a network in principle, and the plugins."""
    monkeypatch.chdir(tmp_path)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "BENCH_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BENCH_DEVICE", "cpu")
    monkeypatch.setattr(TinyBackbones, "folder", tmp_path)
    (tmp_path / "resnet18.bin").write_bytes(b"weights")
    (tmp_path / "s.yaml").write_text(SUITE)
    with registered_plugins():
        yield


# bench plan


def test_a_plan_lists_every_cell_and_says_what_is_to_run(bench):
    done = bench("plan", "s.yaml")
    head, *rows, summary = done.out.splitlines()
    assert done.code == 0
    assert head.split() == ["backbone", "dataset", "strategy", "seed", "state", "estimate"]
    assert [row.split() for row in rows] == [
        ["tiny/resnet18", "digits", strategy, seed, "to", "run"]
        for strategy in ("dial", "turn")
        for seed in ("0", "1")
    ]
    assert summary == "4 cells: 0 measured, 4 to run"


def test_a_plan_without_results_says_so_and_makes_no_database(bench, tmp_path):
    done = bench("plan", "s.yaml")
    assert done.err.startswith("note: no results in results/bench.db yet.")
    assert not (tmp_path / "results").exists()


def test_only_and_seeds_narrow_the_plan(bench):
    assert "2 cells" in bench("plan", "s.yaml", "--only", "turn").out
    assert "1 cells" in bench("plan", "s.yaml", "--only", "turn", "--seeds", "1").out
    assert bench("plan", "s.yaml", "--only", "vgg").code == 2
    assert bench("plan", "s.yaml", "--seeds", "x").code == 2


def test_a_plan_knows_what_is_measured_and_how_long_the_rest_takes(bench, tmp_path):
    first, second, third, _ = plan_cells(load_suite(tmp_path / "s.yaml"))
    with open_store("r.db") as store:
        run = store.start_run("little")
        for cell, seconds in ((first, 30.0), (third, 90.0)):
            record = make_record(device_class=device_class("cpu"))
            key = request_key(cell) if cell is first else "of another state of its files"
            fields = {"cell": cell, "request_key": key, "run_id": run.id, "wall_seconds": seconds}
            store.add(record.model_copy(update=fields))
    done = bench("plan", "s.yaml", "--store", "r.db")
    assert done.err == ""
    states = [re.split(r" {2,}", row)[4:] for row in done.out.splitlines()[1:5]]
    assert states == [["measured"], ["to run", "30s"], ["to run", "90s"], ["to run", "90s"]]
    assert done.out.splitlines()[5] == "4 cells: 1 measured, 3 to run, about 3m 30s"
    assert second.seed == 1


def test_a_measurement_on_another_device_does_not_count(bench, tmp_path):
    cell = plan_cells(load_suite(tmp_path / "s.yaml"))[0]
    with open_store("r.db") as store:
        run = store.start_run("little")
        record = make_record(device_class="cuda:NVIDIA H100")
        fields = {"cell": cell, "request_key": request_key(cell), "run_id": run.id}
        store.add(record.model_copy(update=fields))
    assert "4 cells: 0 measured" in bench("plan", "s.yaml", "--store", "r.db").out


def test_what_a_run_would_fetch_is_listed_and_is_no_failure(bench, tmp_path):
    (tmp_path / "s.yaml").write_text(SUITE.replace("resnet18", "resnet50"))
    done = bench("plan", "s.yaml")
    assert done.code == 0
    assert (
        "to download: weights of tiny/resnet50 (98 MiB), by the run itself or so: hf " in done.out
    )
    assert done.out.count("to download: ") == 1
    assert "1 to download, 98 MiB in all. Ahead of a run: bench fetch s.yaml\n" in done.out


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
@pytest.mark.parametrize("value", ["1", "true", "YES"])
def test_offline_what_is_missing_exits_3_and_says_how_to_get_it(
    bench, tmp_path, monkeypatch, name, value
):
    monkeypatch.setenv(name, value)
    (tmp_path / "s.yaml").write_text(SUITE.replace("resnet18", "resnet50"))
    done = bench("plan", "s.yaml")
    assert done.code == 3
    assert "error: missing: weights of tiny/resnet50. To get it: hf download it" in done.err
    assert "missing" in done.out.splitlines()[1]


def test_what_no_run_can_fetch_exits_3_with_a_network_too(bench, tmp_path):
    (tmp_path / "s.yaml").write_text(SUITE.replace("resnet18", "mobilenetv4_hybrid"))
    done = bench("plan", "s.yaml")
    assert done.code == 3
    assert "error: missing: weights of tiny/mobilenetv4_hybrid" in done.err


def test_an_offline_plan_with_everything_here_exits_0(bench, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert bench("plan", "s.yaml").code == 0


def test_a_wrong_suite_exits_2_with_every_message(bench, tmp_path):
    (tmp_path / "s.yaml").write_text(SUITE.replace("dial", "dail").replace("digits", "digts"))
    done = bench("plan", "s.yaml")
    assert done.code == 2
    first, second = done.err.splitlines()
    assert first.startswith("error: s.yaml:3: unknown dataset 'digts'. Did you mean 'digits'?")
    assert second.startswith("s.yaml:4: unknown strategy 'dail'. Did you mean 'dial'?")
    assert done.out == ""


# bench list


def test_backbones_are_listed_one_a_line_and_sorted(bench):
    done = bench("list", "backbones")
    names = done.out.splitlines()
    assert done.code == 0
    assert names == sorted(names)
    assert {"plain/pixels", "packaged/efficientnet-lite0", *TINY_NAMES} <= set(names)
    assert sum(name.startswith("timm/") for name in names) > 1000
    assert "names of 'hf' cannot be listed, but can be used" in done.err


def test_a_glob_or_a_piece_narrows_the_list(bench):
    assert bench("list", "backbones", "tiny/*net50*").out.splitlines() == list(TINY_NAMES[3:])
    assert "timm/resnet50.a1_in1k" in bench("list", "backbones", "resnet50").out.splitlines()


def test_a_list_that_matches_nothing_exits_2(bench):
    done = bench("list", "datasets", "digist")
    assert done.code == 2
    assert "no datasets match 'digist'. Did you mean 'digits'? List all with:" in done.err


def test_strategies_are_listed_with_what_they_do(bench):
    lines = bench("list", "strategies").out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "bias_only",
        "dial",
        "full",
        "gradual_unfreeze",
        "knn",
        "l2_sp",
        "layer_decay",
        "linear_probe",
        "lora",
        "lp_ft",
        "nearest_centroid",
        "norm_only",
        "partial",
        "ridge_probe",
        "scratch",
        "turn",
    ]
    assert lines[1].split(maxsplit=1)[1] == "turns a dial"


def test_a_broken_plugin_is_noted_beside_the_list(bench):
    with registered_plugins({"strategies": {"broken": "no_such_module:Thing"}}):
        done = bench("list", "strategies")
    assert "plugin 'broken'" in done.err
    assert "dial" in done.out


def test_an_unknown_kind_exits_2(bench):
    assert bench("list", "models").code == 2


# bench schema


def test_the_schema_offers_names_and_the_fields_of_every_strategy(bench):
    schema = json.loads(bench("schema").out)
    definitions = schema["$defs"]
    assert definitions["strategy_full"]["properties"]["name"] == {"const": "full"}
    assert "learning_rate" in definitions["strategy_full"]["properties"]
    assert "trainable_stages" in definitions["strategy_partial"]["properties"]
    assert set(definitions["strategy_dial"]["properties"]) == {"name", "level", "steps"}
    assert definitions["strategy_dial"]["description"] == "turns a dial"
    names, _ = definitions["BackboneSpec"]["properties"]["name"]["anyOf"]
    assert "timm/resnet50.a1_in1k" in names["enum"]
    assert schema["required"] == ["name", "backbones", "datasets", "strategies"]


def test_the_schema_says_what_the_columns_of_a_dataset_are_for(bench):
    fields = json.loads(bench("schema").out)["$defs"]["DatasetSpec"]["properties"]
    assert fields["label"]["description"] == "Column that holds the class names."
    columns = ("text", "image", "audio", "label", "split", "val", "test", "config", "revision")
    assert all(fields[name]["description"] for name in (*columns, "streaming"))
    assert "label_column" not in fields


def test_every_reference_of_the_schema_leads_somewhere(bench):
    text = bench("schema").out
    wanted = set(re.findall(r'"#/\$defs/([^"]+)"', text))
    assert wanted == set(json.loads(text)["$defs"])


def test_every_limit_may_be_text_with_a_unit_in_the_schema(bench):
    limits = json.loads(bench("schema").out)["$defs"]["Limits"]["properties"]
    examples = {
        "cell_timeout": ("1h30m", "2x"),
        "total_time": ("90s", "h"),
        "host_memory": ("16GiB", "lots"),
        "profile_time": ("1.5m", ""),
    }
    assert set(limits) == set(examples)
    for name, (good, bad) in examples.items():
        (pattern,) = [one["pattern"] for one in limits[name]["anyOf"] if "pattern" in one]
        assert re.search(pattern, good)
        assert not re.search(pattern, bad)


def test_seeds_may_be_a_range_in_the_schema(bench):
    seeds = json.loads(bench("schema").out)["properties"]["seeds"]
    as_list, as_text = seeds["anyOf"]
    assert as_list["type"] == "array" and seeds["default"] == [0]
    assert re.search(as_text["pattern"], "0..9") and not re.search(as_text["pattern"], "0-9")


class _Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("num_rows", "folded"), [(500, True), (501, False)])
def test_long_names_are_folded_in_a_terminal_while_the_rows_are_few(num_rows: int, folded: bool):
    rows = [("timm/" + "name" * 50, "digits", "full", "0", "to run", "")] * num_rows
    with redirect_stdout(_Terminal()) as terminal:
        _print_cells(rows)
    lines = terminal.getvalue().splitlines()
    assert (len(lines) > 1 + num_rows) == folded
