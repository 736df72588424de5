import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from bench.gate.trends import CellState, Run, find_trends
from bench.gate.values import Metric
from bench.report import write_report
from tests.histories import jitter
from tests.records import START, vision_records

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=\"document.title='owned'\">" + "a-very-long-reason" * 9
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None and not os.environ.get("BENCH_REQUIRE_BROWSER"):
        pytest.skip("no Chromium on the path")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    """A cell that got slower, of which one level was accepted."""
    metric, runs = Metric.INFER_RATE, []
    for night, noise in enumerate(jitter(30, 1)):
        value = 500 * noise * (0.8 if night >= 14 else 1) * (0.8 if night >= 20 else 1)
        state = CellState("identity", "here", {metric: value})
        runs.append(Run(f"scope {night}", night, START, {"timm/net · digits · full": state}))
    accepted = {("identity", metric): {"scope 20": HOSTILE}}
    folder = tmp_path_factory.mktemp("trends")
    history = find_trends("vision", runs, accepted)
    page = write_report(
        vision_records(), folder, suite="vision", command="bench run", history=history
    )
    return page.as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_the_charts_of_runs_fit_and_keep_hostile_text_text(browser, address, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#trends .panel svg").count() == 1
    assert HOSTILE in page.inner_text("#trends .changes")
    assert page.locator("#trends img").count() == 0
    assert page.title() == "vision · bench report"
    colours = page.locator("#trends .changes li").evaluate_all(
        "all => all.map(e => getComputedStyle(e).borderLeftColor)"
    )
    assert len(set(colours)) == 2, "what got worse and what was accepted are told apart"
    assert complaints == []
    page.close()


def test_hovering_over_a_value_or_a_change_tells_of_it(browser, address):
    page = browser.new_page(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page.goto(address)
    page.locator("#trends .mark.s0").first.hover()
    assert page.inner_text("#tip").startswith("run 0, 2026-01-02\n")
    page.locator("#trends .change-mark.bad").hover()
    assert page.inner_text("#tip").startswith("step at run 14, 2026-01-02: ")
    page.close()
