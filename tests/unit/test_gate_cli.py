"""Baselines and the gate through the real command line, on real small stores; no torch."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from bench.cli import main
from bench.gate import GateSettings, judge
from bench.gate.files import load_baseline
from bench.gate.night import Candidate, compare_night
from bench.gate.records import label_records, read_run
from bench.metrics import pack_predictions
from bench.record import Record, Status
from bench.report.page import render_page
from bench.store import open_store
from tests.records import make_record

COUNT = 1000
Ran = Callable[..., tuple[int, str, str]]


def predicted(record: Record, accuracy: float = 0.9) -> Record:
    """Real predictions; a lower accuracy gets wrong what the higher one had right."""
    labels = np.random.default_rng(0).integers(0, 10, COUNT)
    draws = np.random.default_rng(1 + record.cell.seed).random(COUNT)
    logits = np.zeros((COUNT, 10))
    logits[np.arange(COUNT), np.where(draws < accuracy, labels, (labels + 1) % 10)] = 6
    ids = [f"example {index}" for index in range(COUNT)]
    packed = pack_predictions("test", ids, "split", logits, labels)
    return record.model_copy(update={"predictions": (packed,)})


def night(accuracy: float = 0.9, **wishes: object) -> list[Record]:
    cells = [("full", 0), ("full", 1), ("linear_probe", 0), ("linear_probe", 1)]
    return [
        predicted(make_record(strategy=name, seed=seed, **wishes), accuracy) for name, seed in cells
    ]


def failed() -> Record:
    return make_record(strategy="full", seed=0, status=Status.OOM, message="no <memory>")


def add_run(records: list[Record], path: str = "results/bench.db") -> None:
    with open_store(path) as store:
        run = store.start_run("vision")
        for record in records:
            store.add(record.model_copy(update={"run_id": run.id}))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch, capfd) -> Ran:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCH_STORE", raising=False)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bench", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        sys.stdout.flush()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture
def saved(bench: Ran) -> Ran:
    add_run(night())
    code, out, err = bench("baseline", "save", "main", "--from", "vision", "--note", "first")
    assert (code, err) == (0, "")
    assert out.startswith("results/baselines/main.json: 4 records of run 1, ")
    assert "KiB" in out
    return bench


def test_a_baseline_read_back_judges_as_the_records_it_was_saved_from(saved: Ran):
    kept = load_baseline("main").records
    names = label_records(kept)
    before = read_run(night(), names, title="").cells
    after = read_run(kept, names, title="").cells
    settings = GateSettings(num_replicates=200)
    same = judge(before, before, settings)
    assert judge(after, after, settings) == same
    assert judge(before, after, settings) == same
    assert same.exit_code == 0
    assert [cell.costs for cell in before] == [cell.costs for cell in after]


def test_baselines_are_listed_and_shown(saved: Ran):
    assert saved("baseline", "list")[1].startswith("main  vision  4 records  ")
    code, out, _ = saved("baseline", "show", "main")
    assert code == 0
    assert "suite vision, run 1" in out and "note: first" in out
    assert "packaged/efficientnet-lite0 · digits · full: seed 0 ok, seed 1 ok" in out


def test_an_equal_run_exits_with_0(saved: Ran):
    code, out, _ = saved("compare", "main")
    assert code == 0, out
    assert "regressed" not in out.replace("nothing regressed", "")
    assert "exit code 0: nothing regressed, failed or is missing" in out


def test_worse_predictions_exit_with_1_and_say_what_changed_and_where_from(saved: Ran):
    worse = night(0.85)
    env = worse[0].environment
    newer = env.model_copy(update={"packages": {**env.packages, "torch": "2.15.0"}})
    add_run([record.model_copy(update={"environment": newer}) for record in worse])
    words = ("--markdown", "gate.md", "--json", "gate.json", "--junit", "gate.xml")
    code, out, _ = saved("compare", "main", *words)
    assert code == 1
    assert out.index("regressed") < out.index("inconclusive" if "inconclusive" in out else "exit")
    assert "torch 2.14.0 → 2.15.0" in out
    assert "recalled, measured 2026-01-02" in out
    value = json.loads(Path("gate.json").read_text())
    assert value["exit_code"] == 1 and value["counts"]["regressed"] >= 2
    assert "| regressed |" in Path("gate.md").read_text()
    suite = ElementTree.parse("gate.xml").getroot().find("testsuite")
    assert int(suite.get("failures")) == len(suite.findall("testcase/failure")) >= 2
    assert int(suite.get("skipped")) == len(suite.findall("testcase/skipped"))
    assert int(suite.get("tests")) == len(suite.findall("testcase"))


def test_a_missing_cell_exits_with_3(saved: Ran):
    add_run(night()[:2])
    code, out, _ = saved("compare", "main")
    assert code == 3
    assert "the candidate does not hold this cell" in out


def test_a_failed_cell_exits_with_3_and_its_reason(saved: Ran):
    add_run([failed(), *night()[1:]])
    code, out, _ = saved("compare", "main")
    assert code == 3
    assert "seed 0 is oom: no <memory>" in out
    assert "no &lt;memory>" in saved("compare", "main", "--markdown", "-")[1]


def test_another_class_of_device_exits_with_4(saved: Ran):
    same_keys = [record.key for record in night()]
    other = night(device_class="cpu:Other CPU:2")
    changed = [r.model_copy(update={"key": key}) for r, key in zip(other, same_keys, strict=True)]
    add_run(changed)
    code, out, _ = saved("compare", "main")
    assert code == 4
    assert "different classes of device" in out


def test_a_changed_suite_exits_with_4(saved: Ran):
    add_run(night(fields={"epochs": 9}))
    code, out, _ = saved("compare", "main")
    assert code == 4
    assert "their keys differ, so another task was measured" in out


def test_an_unknown_baseline_exits_with_4_and_the_nearest_name(saved: Ran):
    code, _, err = saved("compare", "mian")
    assert code == 4
    assert "error: no baseline 'mian' in results/baselines. Did you mean 'main'?" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged or no baseline"),
        ("[]", "is damaged or no baseline"),
        ('{"format_version": 9}', "has format 9, this version of bench knows up to 1"),
    ],
)
def test_a_file_that_cannot_be_read_exits_with_4(saved: Ran, text: str, message: str):
    Path("results/baselines/main.json").write_text(text)
    code, _, err = saved("compare", "main")
    assert code == 4
    assert message in err and "results/baselines/main.json" in err


def test_damaged_predictions_are_found(saved: Ran):
    path = Path("results/baselines/main.json")
    value = json.loads(path.read_text())
    value["splits"][0]["num_examples"] = 7
    path.write_text(json.dumps(value))
    code, _, err = saved("compare", "main")
    assert (code, "predictions are not of 7 examples" in err) == (4, True)


@pytest.mark.parametrize("name", ["../x", "a/b", "", "x.json", ".hidden"])
def test_a_name_that_could_leave_the_folder_exits_with_2(bench: Ran, name: str):
    code, _, err = bench("baseline", "save", name)
    assert (code, "is no name for a baseline" in err) == (2, True)


def test_an_incomplete_run_is_no_baseline_unless_allowed(bench: Ran):
    add_run([failed(), *night()[1:3]])
    code, _, err = bench("baseline", "save", "vision")
    assert code == 2
    assert "full · seed 0 is oom" in err and "linear_probe · seed 1 is missing" in err
    assert bench("baseline", "save", "vision", "--allow-failed")[0] == 0
    assert "seed 0 oom" in bench("baseline", "show", "vision")[1]


def test_another_store_or_baseline_can_be_the_candidate(saved: Ran):
    add_run(night(0.8), "other.db")
    assert saved("compare", "main", "other.db")[0] == 1
    assert saved("compare", "main", "main")[0] == 0
    code, _, err = saved("compare", "main", "nowhere")
    assert code == 2
    assert "'nowhere' is neither a baseline" in err


def test_flags_that_are_wrong_exit_with_2(saved: Ran):
    assert saved("compare", "main", "--alpha", "2")[::2] == (
        2,
        "error: --alpha 2 is not between 0 and 1\n",
    )
    assert saved("compare", "main", "--min-effect", "speed=5%")[0] == 2


def test_unchanged_rows_are_shown_when_asked_for(saved: Ran):
    assert "unchanged      packaged" not in saved("compare", "main")[1]
    assert "unchanged      packaged" in saved("compare", "main", "--all")[1]


def test_the_report_has_the_verdicts_and_what_changed_and_escapes_them(saved: Ran):
    kept = load_baseline("main")
    records = [failed(), *night()[1:]]
    compared = compare_night(kept, Candidate("run <2>", tuple(records)), GateSettings())
    page = render_page(records, suite="vision", command="bench", night=compared)
    assert 'id="gate"' in page and "Compared with baseline main" in page
    assert "exit code 3: cells failed or are missing" in page
    assert "seed 0 is oom: no &lt;memory&gt;" in page
    assert "no <memory>" not in page
    assert 'id="gate"' not in render_page(records, suite="vision", command="bench")


def test_a_record_of_a_newer_version_in_a_baseline_is_told(saved: Ran):
    path = Path("results/baselines/main.json")
    path.write_text(path.read_text().replace('"record_version": 1', '"record_version": 9'))
    code, _, err = saved("compare", "main")
    assert (code, "a record of schema version 9" in err) == (4, True)


def test_a_baseline_that_cannot_be_read_or_written_is_told(saved: Ran):
    path = Path("results/baselines/main.json")
    path.write_bytes(b"\xff\xfe")
    code, _, err = saved("compare", "main")
    assert (code, "error: cannot read results/baselines/main.json" in err) == (4, True)
    path.unlink()
    path.mkdir()
    code, _, err = saved("baseline", "save", "main", "--from", "vision")
    assert (code, "error: cannot write results/baselines/main.json" in err) == (2, True)


def test_a_run_without_records_is_no_baseline(bench: Ran):
    add_run([])
    code, _, err = bench("baseline", "save", "vision")
    assert (code, "holds no record" in err) == (2, True)


def add_slow_runs(factors: list[float]) -> None:
    """One run per factor; the speeds of all cells are so many times as low."""
    for factor in factors:
        add_run([slowed(record, factor) for record in night()])


def slowed(record: Record, factor: float) -> Record:
    infer = record.infer_profile
    seconds = tuple(factor * (0.125 + 0.0001 * repeat) for repeat in range(-10, 11))
    rate = infer.batch_size / float(np.median(seconds))
    slow = infer.model_copy(update={"batch_seconds": seconds, "examples_per_second": rate})
    return record.model_copy(update={"infer_profile": slow})


def infer_verdicts(path: Path) -> set[str]:
    rows = json.loads(path.read_text())["rows"]
    return {row["verdict"] for row in rows if row["metric"] == "infer_examples_per_second"}


def test_earlier_runs_tell_what_a_baseline_of_one_run_cannot(bench: Ran, tmp_path: Path):
    """A quarter slower: nothing is known of one run's noise, much of that of six."""
    add_slow_runs([1.0])
    code, out, _ = bench("baseline", "save", "one", "--from", "vision")
    assert code == 0
    assert "1 run tells little of how much speed and memory vary here" in out
    add_slow_runs([1.01, 0.99, 1.005, 0.995, 1.0])
    code, out, _ = bench("baseline", "save", "six", "--from", "vision")
    assert "bench run SUITE --repeat 5" not in out
    assert len(load_baseline("six").past) == 6
    Path("results/bench.db").rename("results/old.db")
    add_slow_runs([1.25])
    assert bench("compare", "one", "--json", "one.json")[0] == 0
    assert infer_verdicts(Path("one.json")) == {"inconclusive"}
    told = bench("compare", "one")[1]
    assert "Inconclusive: infer/s of 2 cells; up to about 5 earlier runs would tell" in told
    assert "inconclusive   " not in told
    assert "inconclusive   " in bench("compare", "one", "--all")[1]
    code, out, _ = bench("compare", "six", "--json", "six.json")
    assert code == 1
    assert infer_verdicts(Path("six.json")) == {"regressed"}
    assert "assumed" not in out


def test_the_store_tells_the_noise_that_a_baseline_does_not(bench: Ran):
    add_slow_runs([1.0])
    bench("baseline", "save", "one", "--from", "vision")
    add_slow_runs([1.01, 0.99, 1.005, 0.995, 1.0, 1.25])
    assert bench("compare", "one", "--json", "night.json")[0] == 1
    assert infer_verdicts(Path("night.json")) == {"regressed"}


def test_a_regression_is_as_red_the_night_after(bench: Ran):
    add_slow_runs([1.0])
    bench("baseline", "save", "one", "--from", "vision")
    add_slow_runs([1.01, 0.99, 1.005, 0.995, 1.0])
    for _ in range(4):
        add_slow_runs([1.25])
        assert bench("compare", "one", "--json", "night.json")[0] == 1
        assert infer_verdicts(Path("night.json")) == {"regressed"}


@pytest.mark.parametrize("accuracy", [0.8, 0.85])
def test_worse_predictions_are_as_red_the_nights_after_however_few_runs_there_are(
    saved: Ran, accuracy: float
):
    for _ in range(4):
        add_run(night(accuracy))
        assert saved("compare", "main")[0] == 1


def test_several_runs_on_each_side_count_when_asked_for(bench: Ran):
    """Runs vary by 5%: one against one says nothing of 12%, ten against ten do."""
    noise = [0.95, 1.05, 1.0, 1.04, 0.96, 1.05, 0.95, 1.03, 0.97, 1.0]
    add_slow_runs(noise)
    bench("baseline", "save", "ten", "--from", "vision", "--runs", "10")
    bench("baseline", "save", "one", "--from", "vision")
    add_slow_runs([1.12 * factor for factor in noise])
    assert bench("compare", "one", "--json", "one.json")[0] == 0
    assert infer_verdicts(Path("one.json")) == {"inconclusive"}
    code, out, _ = bench("compare", "ten", "--runs", "10", "--json", "ten.json")
    assert code == 1
    assert infer_verdicts(Path("ten.json")) == {"regressed"}
    assert "run 20 of results/bench.db and 9 before it" in out


def test_more_runs_than_there_are_exit_with_2(saved: Ran):
    code, _, err = saved("baseline", "save", "many", "--from", "vision", "--runs", "3")
    assert (code, "3 runs are wished for, but suite 'vision' has 1 under equal" in err) == (2, True)
    code, _, err = saved("compare", "main", "--runs", "3")
    assert (code, "3 runs are wished for, but results/bench.db has 1 of suite" in err) == (2, True)
    assert "bench run SUITE --repeat 3" in err


def with_other_weights(records: list[Record]) -> list[Record]:
    """The same cells, asked for in the same way, from another file of weights."""
    parts = {**records[0].key_parts, "weights": "cd" * 32}
    return [
        record.model_copy(update={"key": f"other {record.key}", "key_parts": parts})
        for record in records
    ]


def test_replaced_weights_that_hurt_exit_with_1_and_are_named_everywhere(saved: Ran):
    add_run(with_other_weights(night(0.8)))
    words = ("--markdown", "gate.md", "--json", "gate.json", "--report", "page")
    code, out, _ = saved("compare", "main", *words)
    assert code == 1
    before = night()[0].key_parts["weights"]
    change = f"weights digest {before[:12]}… → cdcdcdcdcdcd…"
    told = [line for line in out.splitlines() if line.startswith("    changed: ")]
    assert told and set(told) == {f"    changed: {change}"}
    cells = "(packaged/efficientnet-lite0 · digits · full and 1 more)"
    assert f"Content replaced since the baseline: {change} {cells}" in out.replace("\n", " ")
    assert change in Path("gate.md").read_text()
    replaced = json.loads(Path("gate.json").read_text())["replaced"]
    assert [(each["change"]["name"], len(each["cells"])) for each in replaced] == [
        ("weights digest", 2)
    ]
    assert "report: page/vision/index.html" in out
    page = Path("page/vision/index.html").read_text()
    section = page[page.index('id="gate"') : page.index('id="results"')]
    assert f"changed: {change}" in section
    assert "Content behind the same names was replaced" in section
    assert f"{before} → {'cd' * 32}" in section


def test_replaced_weights_that_do_not_hurt_exit_with_0_and_are_named_all_the_same(saved: Ran):
    add_run(with_other_weights(night()))
    code, out, _ = saved("compare", "main")
    assert code == 0, out
    assert "Content replaced since the baseline: weights digest" in out


def test_the_smallest_detectable_change_is_told_in_every_form(saved: Ran):
    add_run(night(0.89))
    words = ("--json", "gate.json", "--report", "page")
    line = "Smallest change detectable here, median (and worst) over cells: accuracy "
    assert line in saved("compare", "main", *words)[1].replace("\n", " ")
    assert line in saved("compare", "main", "--markdown", "-")[1]
    value = json.loads(Path("gate.json").read_text())
    assert [each["family"] for each in value["detectable"]] == [
        "accuracy", "macro_f1", "nll", "throughput", "latency", "memory",
    ]  # fmt: skip
    own = [r["detectable"] for r in value["rows"] if r["metric"] == "test_accuracy"]
    assert value["detectable"][0]["median"] == pytest.approx(sum(own) / 2)
    assert value["detectable"][0]["worst"] == max(own)
    page = Path("page/vision/index.html").read_text()
    assert "Smallest change detectable here" in page
    assert '<th scope="row">macro-F1</th>' in page
    assert "<td>assumed</td>" in page


def test_markdown_alone_goes_to_standard_output_so_that_a_summary_can_be_appended(saved: Ran):
    _, out, err = saved("compare", "main", "--markdown", "-", "--report", "page")
    assert out.startswith("## bench: exit code 0")
    assert "report:" not in out and "report: page/vision/index.html" in err


def test_a_job_summary_is_appended_to_and_any_other_file_replaced(saved: Ran, monkeypatch):
    for name in ("summary.md", "other.md"):
        Path(name).write_text("# Earlier steps\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    saved("compare", "main", "--markdown", "summary.md")
    saved("compare", "main", "--markdown", "other.md")
    assert Path("summary.md").read_text().startswith("# Earlier steps\n## bench: exit code 0")
    assert Path("other.md").read_text().startswith("## bench: exit code 0")
    Path("summary.md").unlink()
    assert saved("compare", "main", "--markdown", "summary.md")[0] == 0
    assert Path("summary.md").read_text().startswith("## bench: exit code 0")


def test_a_candidate_without_a_record_has_a_verdict_and_no_page(saved: Ran):
    add_run([])
    code, out, _ = saved("compare", "main", "--report", "page")
    assert code == 3
    assert "no report: the candidate holds no record" in out
    assert not Path("page").exists()


def test_a_stored_run_is_reported_with_its_verdicts(saved: Ran):
    add_run(night(0.8))
    for words in (("--against", "main"), ("vision", "--against", "main")):
        code, out, _ = saved("report", *words, "-o", "pages")
        assert (code, out) == (0, "pages/vision/index.html\n")
        page = Path("pages/vision/index.html").read_text()
        assert "exit code 1: a regression was found" in page
        assert page.index("<td>regressed</td>") < page.index("What changed since the baseline")
    saved("report", "vision", "-o", "pages")
    assert 'id="gate"' not in Path("pages/vision/index.html").read_text()


def test_a_report_against_a_baseline_of_another_suite_is_refused(saved: Ran):
    code, _, err = saved("report", "other", "--against", "main")
    assert (code, "baseline 'main' is of suite 'vision', not of 'other'" in err) == (4, True)
    assert saved("report", "--against", "main", "--alpha", "2")[0] == 2
