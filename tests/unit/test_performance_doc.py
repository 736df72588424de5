"""The table of docs/performance.md: where its numbers come from, and what it must not show."""

import json
from pathlib import Path

import pytest

from benchmarks import measure, report, results
from benchmarks.measure import Timing
from benchmarks.results import Row, at_least, at_most, compare

ROOT = Path(__file__).parent.parent.parent


def rows() -> list[Row]:
    kept = compare(
        "4", "full", "Lite0", bench=Timing(1, 2), plain=Timing(3, 8), target=at_least(1.9)
    )
    missed = Row("8", "memory", "folder", 2048.0, at_most(1024), unit="MiB")
    return [kept, missed]


def test_a_ratio_is_how_many_times_as_long_the_plain_way_takes() -> None:
    kept = rows()[0]
    assert (kept.ratio, kept.cpu_ratio) == (3, 4)
    inverse = compare("1", "", "", bench=Timing(6, 1), plain=Timing(4, 1), inverse=True)
    assert inverse.ratio == 1.5


def test_saved_rows_come_back_as_a_table(tmp_path: Path) -> None:
    results.save("some", rows(), tmp_path)
    table = report.render(report.load_results(tmp_path))
    assert "| 4 | full | Lite0 | 3 x | 4 x | at least 1.9 | 1 s | 3 s |  |" in table
    assert "2,050 MiB **missed**" in table
    assert "Not measured in this run: 1, 2, 3, 5, 6, 7, 9." in table


def test_a_row_without_a_number_is_no_measurement(tmp_path: Path) -> None:
    results.save("some", [Row("1", "peer", "", None, at_least(10), note="absent")], tmp_path)
    table = report.render(report.load_results(tmp_path))
    assert "| 1 | peer |  | – | – | at least 10 | – | – | absent |" in table
    assert "Not measured in this run: 1," in table


def test_quick_results_are_never_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "QUICK", True)
    path = results.save("some", rows(), tmp_path)
    assert len(json.loads(path.read_text())["rows"]) == 2
    assert report.load_results(tmp_path) == []


def test_missed_targets_are_told_but_not_of_quick_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "QUICK", False)
    assert results.unmet(rows()) == ["8: memory, folder: 2.05e+03 MiB, target at most 1024"]
    monkeypatch.setattr(results, "QUICK", True)
    assert results.unmet(rows()) == []


def test_ways_run_in_turn_and_their_own_timings_count() -> None:
    order = []

    def slow() -> Timing:
        order.append("slow")
        return Timing(7, 9)

    found = measure.interleave({"slow": slow, "fast": lambda: order.append("fast")}, rounds=2)
    assert order == ["slow", "fast", "fast", "slow"]
    assert found["slow"] == Timing(7, 9)
    assert 0 <= found["fast"].wall_seconds < 1


def test_a_document_without_markers_is_refused() -> None:
    assert report.update_document(f"a{report.BEGIN}old{report.END}b", "new") == (
        f"a{report.BEGIN}\nnew\n{report.END}b"
    )
    with pytest.raises(ValueError, match="lacks"):
        report.update_document("no markers", "new")


def test_every_benchmark_is_in_the_document() -> None:
    text = report.DOCUMENT.read_text()
    assert report.BEGIN in text and report.END in text
    names = sorted(path.name for path in (ROOT / "benchmarks").glob("bench_*.py"))
    assert names
    assert [name for name in names if f"`pytest benchmarks/{name}`" not in text] == []
