import json
import re
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.record import Status
from bench.report import write_report
from bench.report.axes import linear_axis, log_axis, robust_floor
from bench.report.charts import (
    HEIGHT,
    MEMORY,
    THROUGHPUT,
    WIDTH,
    Curve,
    cost_panel,
    curve_panel,
    pareto_front,
    place_x,
    place_y,
)
from bench.report.findings import (
    caveats,
    comparable_memory,
    comparable_rates,
    standings,
    strategy_gains,
)
from bench.report.page import json_for_script, render_page
from bench.tables import summarise
from tests.golden.update import GOLDEN, golden_page
from tests.records import failed_records, make_record, vision_records

COMMAND = "bench run suites/vision.yaml"
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}"


def _page(records) -> str:
    return render_page(records, suite="vision", command=COMMAND)


def _standing(*records):
    (standing,) = standings(summarise(records))
    return standing


# Axes


def test_a_linear_axis_has_round_ticks_within_its_ends():
    axis = linear_axis([0.842, 0.961], least=0.0, most=1.0)
    ticks = axis.ticks(lambda value: f"{value:.2f}")
    assert [tick.text for tick in ticks] == ["0.85", "0.90", "0.95"]
    assert all(0 <= tick.share <= 1 for tick in ticks)


def test_a_log_axis_has_a_tick_per_round_factor():
    axis = log_axis([400.0, 40_000.0])
    assert [tick.text for tick in axis.ticks(str)] == [
        "300.0",
        "1000.0",
        "3000.0",
        "10000.0",
        "30000.0",
    ]
    assert axis.share(4_000.0) == pytest.approx(0.5)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
def test_an_axis_of_one_value_has_room_around_it(value: float):
    axis = linear_axis([value], least=0.0, most=1.0)
    assert axis.low < axis.high
    assert 0 <= axis.share(value) <= 1
    assert len(log_axis([value + 1]).ticks(str)) > 1


def test_one_far_off_value_does_not_stretch_an_axis():
    assert robust_floor([0.98, 0.97, 0.95, 0.41]) == pytest.approx(0.73)
    assert robust_floor([0.98, 0.9, 0.8, 0.1]) == pytest.approx(0.46)


def test_ticks_that_would_run_into_each_other_are_left_out():
    ticks = log_axis([840.0, 1400.0]).ticks(str)
    gaps = [after.share - before.share for before, after in pairwise(ticks)]
    assert len(ticks) >= 2 and min(gaps) >= 0.12


# Findings


def test_a_row_apart_from_all_others_is_best_and_has_no_ties():
    standing = _standing(make_record(accuracy=0.8), make_record(strategy="full", accuracy=0.95))
    assert standing.ranking.leader.strategy == "full"
    assert standing.ranking.best is standing.ranking.leader
    assert standing.ranking.tied == ()


def test_the_fastest_of_those_that_cannot_be_told_apart_is_named():
    slow = make_record(backbone="timm/slow", accuracy=0.91, rate=10.0)
    quick = make_record(backbone="timm/quick", accuracy=0.90, rate=90.0)
    bad = make_record(backbone="timm/bad", accuracy=0.2, rate=900.0)
    standing = _standing(slow, quick, bad)
    assert (standing.ranking.leader.backbone, standing.fastest.backbone) == (
        "timm/slow",
        "timm/quick",
    )


def test_a_tie_is_called_a_tie_and_best_is_said_of_one_row_alone():
    tie = [make_record(accuracy=0.91), make_record(strategy="full", accuracy=0.9)]
    page = _page(tie)
    assert "Tied for best: <b>packaged/efficientnet-lite0</b>" in page
    assert "1 other may rank first as well: these data do not tell which is best." in page
    assert (page.count("☆</span> 9"), page.count("★</span> 9")) == (2, 0)
    apart = _page([*tie, make_record(strategy="partial", accuracy=0.97)])
    assert "Best: <b>packaged/efficientnet-lite0</b>, partial" in apart
    assert "Told apart from every other row" in apart
    assert (apart.count("☆</span> 9"), apart.count("★</span> 9")) == (0, 1)


def test_a_highest_row_that_is_neither_best_nor_tied_is_called_highest(monkeypatch):
    rows = summarise([make_record(accuracy=0.91), make_record(strategy="full", accuracy=0.9)])
    odd = [replace(rows[0], rank_high=2), replace(rows[1], rank_low=2)]
    monkeypatch.setattr("bench.report.page.summarise", lambda records: odd)
    page = _page([make_record()])
    assert "Highest: <b>packaged/efficientnet-lite0</b>" in page
    assert "It is not told apart from every other row." in page


def test_transfer_is_held_against_majority_pixels_and_random_weights():
    standing = _standing(
        make_record(strategy="full", accuracy=0.96, majority=0.12),
        make_record(backbone="plain/pixels", accuracy=0.86, majority=0.12),
        make_record(strategy="full", weights="random", accuracy=0.955, majority=0.12),
    )
    assert [(round(w.difference, 3), w.verdict) for w in standing.worth] == [
        (0.84, "better"),
        (0.1, "better"),
        (0.005, "tie"),
    ]
    assert standing.missing == ()


def test_pixels_that_win_are_said_to_win():
    pixels = make_record(backbone="plain/pixels", accuracy=0.97)
    standing = _standing(make_record(accuracy=0.9), pixels)
    assert standing.ranking.leader.backbone == "plain/pixels"
    assert standing.worth[1].verdict == "worse"
    assert "transfer loses" in _page([make_record(accuracy=0.9), pixels])


def test_baselines_that_the_suite_lacks_are_named():
    assert _standing(make_record()).missing == ("a plain/… backbone", "weights: random")


def test_a_dataset_without_any_transfer_says_so():
    standing = _standing(make_record(backbone="plain/pixels"))
    assert (standing.transfer, standing.worth) == (None, ())


def test_gains_are_against_the_probe_of_the_same_backbone():
    lines = strategy_gains(
        summarise(
            [
                make_record(accuracy=0.9),
                make_record(strategy="partial", accuracy=0.91),
                make_record(strategy="full", accuracy=0.8),
                make_record(backbone="timm/x", strategy="full", accuracy=0.99),
            ]
        )
    )
    (line,) = lines
    assert {name: (round(g.difference, 3), g.clear) for name, g in line.gains.items()} == {
        "partial": (0.01, False),
        "full": (-0.1, True),
    }


def test_rates_of_another_batch_size_or_device_stay_out_of_a_figure():
    odd = make_record(backbone="timm/odd")
    profile = odd.infer_profile.model_copy(update={"batch_size": 1})
    odd = odd.model_copy(update={"infer_profile": profile})
    gpu = make_record(backbone="timm/gpu", device_class="cuda:Synthetic GPU", device_memory=True)
    rows = summarise([make_record(), make_record(strategy="full"), odd, gpu])
    assert {row.backbone for row in comparable_rates(rows)} == {"packaged/efficientnet-lite0"}
    assert {row.backbone for row in comparable_memory(rows)} == {"packaged/efficientnet-lite0"}
    assert "2 rows measured on another device or batch size are left out" in _page(
        [make_record(), make_record(strategy="full"), odd, gpu]
    )


def test_what_a_reader_should_know_is_found_in_the_records():
    record = make_record()
    selection = record.selection.model_copy(update={"at_grid_edge": True, "converged": False})
    counts = {"num_duplicates": 3, "num_corrupt": 2, "num_truncated": 4}
    data = record.data.model_copy(update=counts)
    environment = record.environment.model_copy(update={"git_dirty": True})
    odd = record.model_copy(
        update={"selection": selection, "data": data, "environment": environment}
    )
    found = " ".join(caveats([odd], summarise([odd])))
    for part in (
        "1 cell chose a value at the edge",
        "1 cell stopped before the solver had converged",
        "digits: 3 examples of val or test",
        "digits: 2 examples could not be read",
        "does not take 4 examples whole; their ends were cut off",
        "uncommitted changes",
        "One seed per row",
    ):
        assert part in found
    clean = [make_record(), make_record(seed=1)]
    assert caveats(clean, summarise(clean)) == []


def test_a_speed_measured_on_a_busy_machine_is_a_caveat():
    record = make_record(strategy="full")
    busy = record.infer_profile.model_copy(update={"waiting_fraction": 0.2})
    calm = record.infer_profile.model_copy(update={"waiting_fraction": 0.05})
    records = [record.model_copy(update={"infer_profile": each}) for each in (busy, calm, None)]
    (said,) = caveats(records, [])
    assert said.startswith("The speed of 1 cell was measured while the machine was busy")
    assert caveats(records[1:], []) == []


def test_a_training_that_waited_for_its_data_is_a_caveat():
    def waited(*shares: float | None):
        record = make_record(strategy="full")
        pairs = zip(record.curve, shares, strict=False)
        curve = [p.model_copy(update={"data_wait_fraction": share}) for p, share in pairs]
        return record.model_copy(update={"curve": tuple(curve)})

    said = (
        "1 cell waited for data for more than 10% of the time of the training steps: reading set "
        "the pace, not the device."
    )
    assert said in caveats([waited(0.3, 0.02), waited(0.1, 0.1), waited(None)], [])
    assert caveats([waited(0.1, 0.1), waited(None), make_record()], []) == []


# Charts


def test_the_pareto_front_holds_what_no_row_beats():
    rows = summarise(
        make_record(backbone=f"timm/{name}", accuracy=accuracy, rate=rate, memory=memory)
        for name, accuracy, rate, memory in (
            ("best", 0.95, 10.0, 900),
            ("beaten", 0.90, 9.0, 950),
            ("equal", 0.90, 50.0, 500),
            ("quick", 0.85, 90.0, 100),
        )
    )
    for cost in (THROUGHPUT, MEMORY):
        names = [row.backbone for row in pareto_front(rows, cost)]
        assert names == ["timm/quick", "timm/equal", "timm/best"]


def test_marks_and_names_lie_within_the_panel_and_names_cover_nothing():
    rows = [row for row in summarise(vision_records()) if row.dataset == "digits"]
    panel = cost_panel("digits", rows, THROUGHPUT, ["linear_probe", "partial", "full"])
    assert len(panel.marks) == len(rows)
    assert all(0 <= mark.x <= WIDTH and 0 <= mark.y <= HEIGHT for mark in panel.marks)
    assert {label.text for label in panel.labels} <= {
        "pixels",
        "efficientnet-lite0",
        "efficientnet-lite1",
        "efficientnet-lite2",
    }
    assert panel.front.startswith("M")
    assert "plain/pixels linear_probe: 86.5% at 40k examples/s" in panel.description


def test_a_far_off_control_is_named_and_not_drawn():
    random = make_record(strategy="full", weights="random", accuracy=0.41)
    rows = summarise([make_record(), make_record(strategy="partial"), random])
    panel = cost_panel("digits", rows, THROUGHPUT, ["linear_probe", "partial", "full"])
    assert len(panel.marks) == 2
    assert panel.below == ("efficientnet-lite0 (random) · full, 41.0%",)


def test_without_a_measured_cost_there_is_no_panel():
    record = make_record().model_copy(update={"infer_profile": None})
    assert cost_panel("digits", summarise([record]), THROUGHPUT, ["linear_probe"]) is None


def test_a_curve_has_one_line_per_cell():
    curves = [
        Curve("digits", "full", "timm/x", make_record(strategy="full", seed=seed))
        for seed in (0, 1)
    ]
    panel = curve_panel("digits · full", curves, ["timm/x"])
    assert len(panel.lines) == 2
    assert len(panel.marks) == 10
    assert [tick.text for tick in panel.x_ticks] == ["1", "2", "3", "4", "5"]


def test_a_curve_without_val_is_not_drawn():
    record = make_record(strategy="full")
    points = tuple(point.model_copy(update={"val_accuracy": None}) for point in record.curve)
    curve = Curve("digits", "full", "timm/x", record.model_copy(update={"curve": points}))
    assert curve_panel("digits · full", [curve], ["timm/x"]) is None


def test_positions_run_up_and_to_the_right():
    assert place_x(0) < place_x(1)
    assert place_y(0) > place_y(1)


# The page


def test_the_page_is_as_the_golden_one():
    assert golden_page() == (GOLDEN / "page.html").read_text()


def test_the_same_records_give_the_same_bytes(tmp_path: Path):
    records = vision_records()
    first = write_report(records, tmp_path / "a", suite="vision", command=COMMAND)
    second = write_report(records, tmp_path / "b", suite="vision", command=COMMAND)
    assert first == tmp_path / "a" / "index.html"
    assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["index.html"]


def test_the_page_names_no_other_resource():
    page = _page(vision_records() + failed_records())
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", page)
    assert not re.findall(r"@import|url\(|https?://", page)


def test_the_page_is_light_enough_to_mail():
    assert len(_page(vision_records() + failed_records()).encode()) < 250_000


def test_the_embedded_rows_are_the_table():
    records = vision_records()
    text = re.search(r'id="data">(.*?)</script>', _page(records), re.DOTALL).group(1)
    data = json.loads(text)
    assert [dict(zip(data["columns"], values, strict=True)) for values in data["rows"]] == [
        asdict(row) for row in summarise(records)
    ]


def test_json_in_a_script_cannot_end_it():
    text = json_for_script([HOSTILE, "\u2028"])
    assert "<" not in text
    assert json.loads(text) == [HOSTILE, "\u2028"]


def test_hostile_text_is_escaped_wherever_it_can_come_from():
    records = [
        make_record(backbone=f"timm/{HOSTILE}", dataset=HOSTILE, strategy="full"),
        make_record(dataset=HOSTILE, strategy=HOSTILE, accuracy=0.5),
        make_record(status=Status.ERROR, message=HOSTILE, traceback=HOSTILE, seed=1),
    ]
    page = render_page(records, suite=HOSTILE, command=HOSTILE, notes=[HOSTILE])
    assert "<img" not in page
    assert page.count("<script") == 2
    assert "{{7*7}}" in page


def test_a_sweep_in_which_all_failed_is_still_a_page():
    page = _page(failed_records())
    assert "No cell ended ok" in page
    assert "synthetic oom" in page
    assert 'id="cost"' not in page


def test_one_record_alone_is_a_page():
    page = _page([make_record()])
    assert "There is no other row to rank it against." in page
    assert 'id="failures"' not in page


def test_a_record_with_nothing_measured_is_a_page():
    bare = make_record().model_copy(
        update={
            "test": None, "val": None, "selection": None, "infer_profile": None, "data": None,
            "environment": None, "effective": None, "backbone": None, "num_parameters": None,
        }
    )  # fmt: skip
    assert "No cell ended ok" in _page([bare])


def test_many_rows_of_a_dataset_are_folded():
    records = [make_record(backbone=f"timm/b{n}", accuracy=0.9) for n in range(20)]
    page = _page(records)
    assert "<summary>8 more</summary>" in page
    assert "and 14 more, marked in the results table" in page


@pytest.fixture(scope="module")
def long_page() -> str:
    """A page of 600 rows, a third of them far below the rest, and 300 failures."""
    records = [
        make_record(backbone=f"timm/b{n}", strategy="full", accuracy=0.9 if n % 3 else 0.2)
        for n in range(600)
    ]
    return _page([*records, *(make_record(seed=n, status=Status.OOM) for n in range(300))])


def test_a_page_of_many_rows_shows_all_of_them_in_its_table_alone(long_page: str):
    assert long_page.count("<tr data-dataset=") == 601
    assert "<summary>588 more</summary>" in long_page
    assert "and 500 further, in the results table" in long_page


def test_a_page_of_many_failures_lists_some_and_says_so(long_page: str):
    assert long_page.count('<details class="failure">') == 200
    assert "and 100 more: <code>bench table --format json</code>" in long_page


def test_a_page_of_many_curves_draws_the_highest(long_page: str):
    assert "digits · full, the 40 highest of 600 cells" in long_page
    assert long_page.count('class="line ') == 40
    curves = long_page[long_page.index('id="curves"') :]
    assert "b1\nseed" in curves and "b3\nseed" not in curves


def test_a_figure_of_many_rows_draws_the_front_and_the_most_accurate():
    records = [
        make_record(
            backbone=f"timm/b{n}", accuracy=0.9 - n / 10_000, rate=1000.0 if n == 999 else 10.0
        )
        for n in range(1000)
    ]
    panel = cost_panel("digits", summarise(records), THROUGHPUT, ["linear_probe"])
    assert panel is not None
    assert (len(panel.marks), panel.num_further) == (401, 599)
    assert any("b999\n" in mark.tip for mark in panel.marks if mark.on_front)
    assert "599 more rows are in the results table" in _page(records)


def test_a_page_of_many_rows_far_below_names_some(long_page: str):
    assert "b0 · full, 20.0%; b102 · full, 20.0%; " in long_page
    assert "20.0%; and 188 more." in long_page


def test_a_page_grows_by_its_rows_alone(long_page: str):
    assert len(long_page.encode()) < 1_700_000


def test_without_records_there_is_no_report(tmp_path: Path):
    with pytest.raises(
        UsageError, match=r"suite 'vision' has no records to report. Run: bench run"
    ):
        write_report([], tmp_path, suite="vision", command=COMMAND)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot write .*file/index.html"):
        write_report([make_record()], tmp_path / "file", suite="vision", command=COMMAND)


# Colours


def _themes() -> dict[str, dict[str, str]]:
    css = (Path("bench/report/templates/page.css")).read_text()
    blocks = re.findall(
        r'^(:root(?:\[data-theme="dark"\])?) \{(.*?)\}', css, re.DOTALL | re.MULTILINE
    )
    return {selector: dict(re.findall(r"--([\w-]+): ([^;]+);", body)) for selector, body in blocks}


def _luminance(colour: tuple[float, ...]) -> float:
    parts = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def _contrast(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    low, high = sorted((_luminance(first), _luminance(second)))
    return (high + 0.05) / (low + 0.05)


def _rgb(text: str) -> tuple[float, ...]:
    if text.startswith("#"):
        return tuple(int(text[i : i + 2], 16) for i in (1, 3, 5))
    return tuple(float(part) for part in text.split())


@pytest.mark.parametrize("selector", [":root", ':root[data-theme="dark"]'])
def test_text_has_the_contrast_of_wcag_aa(selector: str):
    theme = {name: _rgb(value) for name, value in _themes()[selector].items()}
    heat = tuple(
        0.45 * h + 0.55 * s for h, s in zip(theme["heat-rgb"], theme["surface"], strict=True)
    )
    pairs = [
        (text, ground)
        for text in ("ink", "dim", "accent", "good", "bad")
        for ground in ("ground", "surface")
    ]
    pairs += [("bad", "bad-ground"), ("accent", "tag-ground"), ("ink", "sunken"), ("dim", "sunken")]
    pairs += [("bad", "sunken")]
    for text, ground in pairs:
        assert _contrast(theme[text], theme[ground]) >= 4.5, (text, ground)
    assert _contrast(theme["ink"], heat) >= 4.5
    assert _contrast(theme["star"], heat) >= 3.0
    for series in range(8):
        assert _contrast(theme[f"s{series}"], theme["surface"]) >= 3.0, series


def test_both_ways_to_dark_have_the_same_colours():
    css = (Path("bench/report/templates/page.css")).read_text()
    chosen = _themes()[':root[data-theme="dark"]']
    system = re.search(r'not\(\[data-theme="light"\]\) \{(.*?)\}', css, re.DOTALL).group(1)
    assert dict(re.findall(r"--([\w-]+): ([^;]+);", system)) == chosen
