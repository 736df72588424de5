import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from bench.record import Status
from bench.report import write_report
from bench.tables import summarise
from tests.records import failed_records, make_record, vision_records

pytestmark = pytest.mark.browser

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><b>bold</b>"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None and not os.environ.get("BENCH_REQUIRE_BROWSER"):
        pytest.skip("no Chromium on the path")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def records():
    hostile = make_record(
        backbone="timm/hostile", status=Status.ERROR, message=HOSTILE, traceback=HOSTILE
    )
    named = make_record(backbone=f"timm/{HOSTILE}", accuracy=0.85, class_names=(HOSTILE, "b"))
    return [*vision_records(), *failed_records(), hostile, named]


@pytest.fixture(scope="module")
def address(records, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("report")
    command = "bench run x.yaml"
    return write_report(records, folder, suite="vision", command=command, wholes=records).as_uri()


class Watch:
    """What a page said and asked for."""

    def __init__(self, page: Page) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))


@pytest.fixture
def opened(browser: Browser, address: str) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    watch = Watch(page)
    page.goto(address)
    yield page
    left = [url for url in watch.requests if not url.startswith(("file:", "data:", "blob:"))]
    assert (watch.complaints, left) == ([], [])
    page.close()


def _column(page: Page, title: str) -> list[str]:
    index = page.locator("#table thead th").all_inner_texts().index(title)
    rows = page.locator("#table tbody tr:visible")
    return [row.locator("th, td").nth(index).inner_text() for row in rows.all()]


def test_the_page_loads_one_file_and_complains_of_nothing(browser: Browser, address: str):
    page = browser.new_page()
    watch = Watch(page)
    page.goto(address)
    page.wait_for_load_state("networkidle")
    assert watch.requests == [address]
    assert watch.complaints == []
    page.close()


def test_a_click_on_a_head_sorts_and_a_second_one_turns_it_round(opened: Page):
    head = opened.locator("#table thead th", has_text="Infer /s")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    values = _column(opened, "Infer /s")
    measured = [value for value in values if value != "–"]
    assert measured[0] == "430"
    assert measured[-1] == "40k"
    assert values[len(measured) :] == ["–"] * (len(values) - len(measured))
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    turned = _column(opened, "Infer /s")
    assert turned[0] == "40k"
    assert turned[-1] == "–"


def test_accuracy_sorts_best_first_and_only_one_head_is_marked(opened: Page):
    opened.locator("#table thead button", has_text="Backbone").click()
    opened.locator("#table thead button", has_text="Accuracy").click()
    assert _column(opened, "Accuracy %")[0] == "☆ 98.3"
    assert opened.locator("#table thead [aria-sort]").count() == 1


def test_sorting_works_from_the_keyboard(opened: Page):
    opened.locator("#table thead button", has_text="Backbone").focus()
    opened.keyboard.press("Enter")
    names = _column(opened, "Backbone")
    assert names == sorted(names, key=str.lower)


def test_filters_leave_the_rows_that_fit_and_say_how_many(opened: Page):
    opened.fill("#search", "lite1 partial")
    assert set(_column(opened, "Backbone")) == {"packaged/efficientnet-lite1"}
    assert opened.inner_text("#shown") == "2 of 23 rows"
    opened.select_option("#dataset", "digits")
    assert opened.inner_text("#shown") == "1 of 23 rows"
    opened.fill("#search", "")
    opened.select_option("#dataset", "")
    opened.select_option("#status", "crashed")
    assert _column(opened, "Accuracy %") == ["crashed"]
    opened.select_option("#status", "")
    assert opened.inner_text("#shown") == "23 rows"


def test_more_columns_are_shown_when_asked_for(opened: Page):
    assert not opened.locator("#table thead th", has_text="FLOPs").is_visible()
    opened.check("#more")
    assert opened.locator("#table thead th", has_text="FLOPs").is_visible()


def test_hostile_text_stays_text(opened: Page):
    assert opened.title() == "vision · bench report"
    assert opened.locator("img").count() == 0
    assert HOSTILE in opened.locator("#table tbody").inner_text()
    failure = opened.locator(".failure", has_text="timm/hostile")
    failure.locator("summary").click()
    assert failure.locator("pre").inner_text().strip() == HOSTILE
    mark = opened.locator(".mark[data-tip*='owned']").first
    mark.dispatch_event("pointerover")
    assert HOSTILE in opened.inner_text("#tip")


def test_a_tip_names_the_row_under_the_pointer(opened: Page):
    opened.locator("#cost .panel .mark").first.hover()
    assert "efficientnet" in opened.inner_text("#tip")
    opened.mouse.move(0, 0)
    assert opened.locator("#tip").is_hidden()


def test_the_saved_files_hold_every_row(opened: Page, records):
    with opened.expect_download() as saved:
        opened.click("#save-json")
    rows = json.loads(Path(saved.value.path()).read_text())
    assert len(rows) == len(summarise(records))
    with opened.expect_download() as saved:
        opened.click("#save-csv")
    assert Path(saved.value.path()).read_text().startswith("suite,backbone,dataset,strategy")


def _background(page: Page) -> str:
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


@pytest.mark.parametrize(("scheme", "offer"), [("light", "Dark"), ("dark", "Light")])
def test_the_theme_is_the_systems_until_it_is_chosen(browser, address, scheme, offer):
    page = browser.new_page(color_scheme=scheme)
    page.goto(address)
    before = _background(page)
    assert (before == "rgb(246, 247, 249)") == (scheme == "light")
    assert page.inner_text("#theme") == offer
    page.click("#theme")
    assert _background(page) != before
    page.reload()
    assert _background(page) != before
    page.close()


@pytest.mark.parametrize("width", [320, 375, 768, 1280])
def test_the_page_never_scrolls_sideways(browser: Browser, address: str, width: int):
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(address)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    page.check("#more")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_without_scripts_everything_can_still_be_read(browser: Browser, address: str):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert page.locator("#table tbody tr:visible").count() == 23
    assert page.locator("#summary .card").count() == 2
    assert not page.locator("#filters").is_visible()
    assert not page.locator("#theme").is_visible()
    assert "efficientnet-lite2" in page.locator("#cost .panel .mark title").first.text_content()
    context.close()


def test_in_print_the_whole_table_is_on_paper(browser: Browser, address: str):
    page = browser.new_page()
    page.goto(address)
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    box = "document.querySelector('.tall')"
    assert page.evaluate(f"{box}.scrollHeight <= {box}.clientHeight + 1")
    page.close()


def test_every_control_figure_and_table_has_a_name(opened: Page):
    rules = {
        "input, select": "!e.labels.length",
        "svg[role=img]": "!e.getAttribute('aria-label')",
        "table": "!e.caption",
        "section": "!document.getElementById(e.getAttribute('aria-labelledby'))",
    }
    for selector, is_nameless in rules.items():
        found = opened.locator(selector)
        assert found.count() > 0
        assert found.evaluate_all(f"all => all.filter(e => {is_nameless}).length") == 0, selector


def test_the_links_of_the_page_lead_to_its_sections(opened: Page):
    broken = opened.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')]"
        ".filter((a) => !document.getElementById(a.hash.slice(1))).map((a) => a.hash)"
    )
    assert broken == []
