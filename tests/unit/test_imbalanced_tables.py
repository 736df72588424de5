"""Balanced accuracy in the tables that people read, where it says something else than accuracy."""

import json

import pytest

from bench.tables import render, summarise
from bench.tables.render import text_columns
from bench.tables.terminal import terminal_text
from tests.records import make_record


def record_with(balanced: float, accuracy: float = 0.9):
    record = make_record(accuracy=accuracy)
    test = record.test.model_copy(update={"balanced_accuracy": balanced})
    return record.model_copy(update={"test": test})


def titles(*records) -> list[str]:
    return [column.title for column in text_columns(summarise(records))]


@pytest.mark.parametrize(("balanced", "is_shown"), [(0.9, False), (0.891, False), (0.889, True)])
def test_balanced_accuracy_is_shown_when_it_is_a_point_from_accuracy(balanced, is_shown):
    assert ("bal. %" in titles(record_with(balanced))) is is_shown


def test_one_telling_row_shows_it_for_all():
    assert "bal. %" in titles(record_with(0.5), make_record(strategy="full"))


def test_every_format_for_people_has_the_column_beside_f1():
    rows = summarise([record_with(0.6)])
    markdown = render(rows, "markdown").decode()
    assert "| bal. % | F1 % |" in markdown
    assert "| 60.0 | 89.5 |" in markdown
    assert "bal. \\% & F1 \\%" in render(rows, "latex").decode()
    text = terminal_text(rows, (), width=120)
    assert "bal. %" in text
    assert "bal.: mean recall of classes" in " ".join(text.split())


def test_the_formats_for_programs_have_it_always():
    (row,) = json.loads(render(summarise([record_with(0.9)]), "json"))
    assert row["test_balanced_accuracy"] == 0.9
