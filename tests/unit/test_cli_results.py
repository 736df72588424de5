"""The commands that read results, through the real command line; no torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.cli import main
from bench.store import open_store
from bench.tables import summarise
from tests.records import failed_records, make_record, vision_records


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> str:
    path = str(tmp_path_factory.mktemp("results") / "bench.db")
    with open_store(path) as store:
        run = store.start_run("vision")
        for record in [*vision_records(run_id=run.id), *failed_records(run.id)]:
            store.add(record)
        other = store.start_run("other")
        store.add(make_record(suite="other", run_id=other.id))
    return path


@pytest.fixture
def bench(database, monkeypatch, capfd):
    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setenv("BENCH_STORE", database)
        monkeypatch.setattr(sys, "argv", ["bench", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        sys.stdout.flush()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_the_table_lists_rows_and_under_them_the_failures_with_their_reason(bench):
    code, out, _ = bench("table", "vision")
    assert code == 0
    assert "packaged/efficientnet-lite2  full" in out
    assert out.index("5 not ok") > out.index("mnist-5k")
    assert "RuntimeError: synthetic oom" in out


def test_without_a_suite_every_suite_is_in_the_table(bench):
    _, out, _ = bench("table", "--format", "json")
    assert {row["suite"] for row in json.loads(out)} == {"vision", "other"}


def test_the_table_goes_to_a_file_whose_name_tells_the_format(bench, tmp_path: Path):
    code, out, _ = bench("table", "vision", "-o", str(tmp_path / "deep" / "x.csv"))
    assert (code, out) == (0, "")
    assert (tmp_path / "deep" / "x.csv").read_text().startswith("suite,backbone,")


def test_an_unknown_suite_exits_with_2_and_the_nearest_name(bench):
    code, out, err = bench("table", "vison")
    assert (code, out) == (2, "")
    assert "error: no results of suite 'vison'" in err
    assert "Did you mean 'vision'?" in err


def test_a_record_is_shown_by_the_key_of_its_row(bench):
    rows = summarise(vision_records())
    code, out, _ = bench("show", rows[0].key)
    assert code == 0
    assert out.startswith("packaged/efficientnet-lite2 · digits · full · seed 0\n")
    _, as_json, _ = bench("show", rows[0].key, "--json")
    assert json.loads(as_json)["key"].startswith(rows[0].key)


def test_a_key_that_is_not_there_exits_with_2(bench):
    code, _, err = bench("show", "ffffffffffff")
    assert code == 2
    assert "no record with a key that begins with 'ffffffffffff'" in err


def test_why_two_keys_differ_is_explained(bench):
    first, second = (row.key for row in summarise(vision_records())[:2])
    code, out, _ = bench("explain", first, second)
    assert code == 0
    assert "cell: backbone.name\n  A  packaged/efficientnet-lite2\n" in out


def test_the_report_of_one_suite_or_of_all_is_written_and_named(bench, tmp_path: Path):
    code, out, _ = bench("report", "vision", "-o", str(tmp_path))
    assert (code, out.strip()) == (0, str(tmp_path / "vision" / "index.html"))
    bench("report", "-o", str(tmp_path))
    assert "<title>other · bench report</title>" in (tmp_path / "other/index.html").read_text()


def test_reading_results_imports_no_torch(database: str, tmp_path: Path):
    code = (
        "import sys; from bench.cli import main\n"
        f"sys.argv = ['bench', 'report', '-o', {str(tmp_path)!r}, '--store', {database!r}]\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
