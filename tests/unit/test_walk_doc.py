"""The suites of docs/walk.md are short, quoted whole, and right."""

from pathlib import Path

import pytest

from bench import load_suite, plan_cells

DOCS = Path(__file__).parents[2] / "docs"
SUITES = sorted((DOCS / "walk").glob("*.yaml"))
MOST_LINES = 8


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data of the form that the walk makes."""
    monkeypatch.chdir(tmp_path)
    for name in ("animals", "town"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "1.png").write_bytes(b"checked when it is read")
    (tmp_path / "reviews.csv").write_text("body,opinion\nfine,good\npoor,bad\n")
    return tmp_path


def test_there_is_a_suite_of_photos_and_one_of_reviews() -> None:
    assert [path.name for path in SUITES] == ["photos.yaml", "reviews.yaml"]


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.name)
def test_a_suite_of_the_walk_is_short_and_quoted_whole(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MOST_LINES
    assert f"```yaml\n{text}```" in (DOCS / "walk.md").read_text()


@pytest.mark.parametrize(("name", "cells"), [("photos", 20), ("reviews", 5)])
def test_a_suite_of_the_walk_has_its_cells(data: Path, name: str, cells: int) -> None:
    copy = data / f"{name}.yaml"
    copy.write_text((DOCS / "walk" / copy.name).read_text())
    assert len(plan_cells(load_suite(copy))) == cells


def test_the_script_that_makes_the_reviews_is_quoted_by_name() -> None:
    assert (DOCS / "walk" / "make_reviews.py").is_file()
    assert "`docs/walk/make_reviews.py`" in (DOCS / "walk.md").read_text()
