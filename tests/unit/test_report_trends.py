"""The charts of a history, on histories that are made by hand; and the page around them."""

import re
from datetime import timedelta
from pathlib import Path

import pytest

from bench.cli.run import _history_of
from bench.errors import StoreUnavailableError
from bench.gate.chronicle import read_history
from bench.gate.trends import CellState, History, Run, find_trends
from bench.gate.values import HIGHER_IS_BETTER, Metric
from bench.report.page import render_page
from bench.report.trends import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, TrendPanel, trend_section
from bench.store import open_store
from tests.histories import Evening, add_nights, command_line, jitter
from tests.records import START, vision_records

NUM_RUNS = 20
HOSTILE = "</svg><script>alert(1)</script>"


def run(number: int, cells: dict[str, CellState]) -> Run:
    return Run(f"scope {number}", number, START + timedelta(days=number), cells)


def state(values: dict[Metric, float], conditions: str = "here", **wishes: object) -> CellState:
    return CellState("identity", conditions, values, **wishes)


def stepped(night: int, factor: float = 0.8) -> float:
    return 500 * jitter(NUM_RUNS, 1)[night] * (factor if night >= 12 else 1)


def made(cells: dict[str, list[dict[Metric, float]]], accepted=None) -> History:
    runs = [
        run(night, {name: state(values[night]) for name, values in cells.items()})
        for night in range(NUM_RUNS)
    ]
    return find_trends("vision", runs, accepted or {})


def one(values: list[dict[Metric, float]], **wishes) -> TrendPanel:
    section = trend_section(made({"a · digits · full": values}, **wishes))
    assert section is not None
    return section.panels[0]


RATES = [{Metric.INFER_RATE: stepped(night)} for night in range(NUM_RUNS)]


def test_one_run_has_no_trend():
    runs = [run(0, {"a · d · full": state({Metric.ACCURACY: 0.9})})]
    assert trend_section(find_trends("vision", runs, {})) is None
    assert trend_section(find_trends("vision", runs * 2, {})) is not None


def test_a_step_is_marked_at_its_run_between_two_levels():
    panel = one(RATES)
    (sign,) = panel.signs
    assert sign.kind == "bad"
    assert sign.text.startswith("step at run 12, 2026-01-14: ")
    assert sign.cause == "nothing that is recorded changed since run 11"
    first, second = panel.lines
    assert first.x2 < second.x1 == sign.x
    assert first.y < second.y, "slower is lower"
    assert (len(panel.dots), len(panel.paths)) == (NUM_RUNS, 1)
    assert "step at run 12" in panel.description


def test_everything_drawn_lies_within_its_axes():
    falls = [{Metric.NLL: 1.0 if night < 12 else 0.0} for night in range(NUM_RUNS)]
    for values in (RATES, [{Metric.ACCURACY: 1.0}] * NUM_RUNS, falls):
        panel = one(values)
        xs = [dot.x for dot in panel.dots] + [tick.x for tick in panel.x_ticks]
        ys = [dot.y for dot in panel.dots] + [line.y for line in panel.lines]
        assert all(LEFT <= x <= WIDTH - RIGHT for x in xs)
        assert all(TOP <= y <= HEIGHT - BOTTOM for y in ys)
        assert len(panel.y_ticks) >= 2
        assert len(panel.x_ticks) <= 6


def test_a_memory_has_round_ticks_in_the_unit_of_its_axis():
    grown = [200.0 if night < 12 else 300.0 for night in range(NUM_RUNS)]
    panel = one([{Metric.INFER_MEMORY: value * (1 << 20)} for value in grown])
    assert panel.y_title == "MiB"
    assert "250" in [tick.text for tick in panel.y_ticks]


def test_an_accepted_level_is_marked_with_its_reason():
    accepted = {("identity", Metric.INFER_RATE): {"scope 12": "the new kernel is exact"}}
    (sign,) = one(RATES, accepted=accepted).signs
    assert sign.kind == "accepted"
    assert sign.text.endswith(": the new kernel is exact")


def test_a_gap_parts_the_line_and_has_no_dot():
    values = [dict(each) for each in RATES]
    del values[5][Metric.INFER_RATE]
    panel = one(values)
    assert (len(panel.dots), len(panel.paths)) == (NUM_RUNS - 1, 2)


def test_values_under_other_conditions_are_hollow_and_said():
    name, metric = "a · digits · full", Metric.INFER_RATE
    runs = [
        run(night, {name: state({metric: 500.0}, "old", traits={"device class": "cpu"})
                    if night < 5
                    else state({metric: 900.0}, "new", traits={"device class": "gpu"})})
        for night in range(NUM_RUNS)
    ]  # fmt: skip
    section = trend_section(find_trends("vision", runs, {}))
    (panel,) = [each for each in section.panels if each.metric == "infer speed"]
    assert [dot.old for dot in panel.dots] == [True] * 5 + [False] * 15
    assert "under other conditions" in panel.dots[0].tip
    (sign,) = panel.signs
    assert sign.kind == "new"
    assert sign.text == "other conditions since run 5, 2026-01-07: device class cpu → gpu"
    assert section.num_changed == 0


def test_what_changed_comes_first_then_the_most_accurate_and_the_rest_is_counted():
    quiet = [dict.fromkeys(Metric, 0.9)] * NUM_RUNS
    best = [dict.fromkeys(Metric, 0.95)] * NUM_RUNS
    cells = {f"net{index} · digits · full": quiet for index in range(8)}
    cells |= {"best · digits · full": best, "slow · digits · full": RATES}
    section = trend_section(made(cells))
    names = [panel.cell for panel in section.panels]
    assert names[:3] == ["slow · digits · full", "best · digits · full", "best · digits · full"]
    assert [panel.metric for panel in section.panels[1:3]] == ["accuracy", "infer speed"]
    assert (len(section.panels), section.num_changed) == (12, 1)
    assert section.num_left_out == 9 * len(Metric) + 1 - 12


def test_hundreds_of_changes_are_capped_and_counted():
    section = trend_section(made({f"net{index} · digits · full": RATES for index in range(100)}))
    assert (len(section.panels), section.num_changed_left_out) == (24, 76)


def test_only_the_newest_sixty_runs_are_drawn():
    runs = [run(n, {"a · d · full": state({Metric.ACCURACY: 0.9})}) for n in range(70)]
    section = trend_section(find_trends("vision", runs, {}))
    assert (section.num_runs, section.first) == (60, "run 10, 2026-01-12")
    assert len(section.panels[0].dots) == 60


def test_the_page_has_the_trends_and_escapes_what_people_wrote():
    accepted = {("identity", Metric.INFER_RATE): {"scope 12": HOSTILE}}
    history = made({f"{HOSTILE} · digits · full": RATES}, accepted=accepted)
    page = render_page(vision_records(), suite="vision", command="bench run", history=history)
    assert '<section id="trends"' in page and 'href="#trends"' in page
    assert HOSTILE not in page
    assert "&lt;/svg&gt;&lt;script&gt;alert(1)&lt;/script&gt;" in page
    section = re.search(r'<section id="trends".*?</section>', page, re.S)[0]
    assert section.count("<svg") == section.count("</svg>") == 1
    assert section.count("<title>") == NUM_RUNS + 1


def test_the_page_without_a_history_or_with_one_run_has_no_trends():
    short = find_trends("vision", [run(0, {"a · d · full": state({Metric.ACCURACY: 0.9})})], {})
    for history in (None, short):
        page = render_page(vision_records(), suite="vision", command="bench", history=history)
        assert 'id="trends"' not in page and "#trends" not in page


def test_the_report_command_draws_the_runs_of_its_store(tmp_path: Path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCH_STORE", raising=False)
    bench = command_line(monkeypatch, capfd)
    page = Path("report/vision/index.html")
    add_nights([Evening()])
    assert bench("report")[0] == 0
    assert 'id="trends"' not in page.read_text()
    add_nights([Evening(rate=500 * noise) for noise in jitter(12, 1)], first=1)
    add_nights([Evening(rate=350 * noise) for noise in jitter(5, 2)], first=13)
    Path("results/baselines").mkdir()
    Path("results/baselines/bad.json").write_text("{")
    assert bench("report")[0] == 0
    text = page.read_text()
    assert "18 runs, run 1, 2026-01-02, to run 18, 2026-01-19." in text
    assert "step at run 14, 2026-01-15: " in text
    assert "Accepted levels may be missing here: results/baselines/bad.json is damaged" in text
    with open_store(create=False) as store:
        assert len(read_history(store, "vision").runs) == 18


class GoneStore:
    """A store whose server stopped."""

    def runs(self, suite: str) -> list[object]:
        raise StoreUnavailableError(f"no answer for {suite}")


def test_a_run_whose_store_is_gone_has_a_report_without_trends():
    assert _history_of(GoneStore(), "vision") is None


@pytest.mark.parametrize("metric", list(Metric))
def test_every_metric_can_be_drawn(metric: Metric):
    values = jitter(NUM_RUNS, 3, 0.001)
    fallen = [value * (0.9 if night < 12 else 0.7) for night, value in enumerate(values)]
    panel = one([{metric: value} for value in fallen])
    higher = metric in HIGHER_IS_BETTER
    assert [sign.kind for sign in panel.signs] == ["bad" if higher else "good"]
    assert panel.now and panel.y_title and len(panel.dots) == NUM_RUNS
