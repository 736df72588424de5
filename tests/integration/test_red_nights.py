"""Real regressions and other nights that must not pass, through the real command line."""

from pathlib import Path

import pytest

from benchmarks.red_nights import (
    Desk,
    changed_suite,
    failed_cell,
    missing_cell,
    other_hardware,
    replaced_weights,
    slow_and_leaking,
)

NET = "timm/test_efficientnet (weights.safetensors) · digits · linear_probe"
PIXELS = "drag/pixels · digits · linear_probe"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("project"))


@pytest.fixture
def desk(shared: Desk) -> Desk:
    shared.reset()
    return shared


def gate_section(folder: Path) -> str:
    page = (folder / "index.html").read_text()
    return page[page.index('id="gate"') : page.index('id="results"')]


def test_a_replaced_weights_file_is_red_for_accuracy_and_named_in_every_file(desk: Desk):
    night = replaced_weights(desk)
    assert night.code == 1, night.output
    (row,) = [row for row in night.told("regressed") if row["metric"] == "test_accuracy"]
    assert row["cell"] == NET
    assert row["baseline"] - row["candidate"] > 0.1
    assert row["origin"] == "measured in this run"
    (change,) = [change for change in row["changes"] if change["name"] == "weights digest"]
    told = f"weights digest {change['first'][:12]}… → {change['second'][:12]}…"
    assert change["first"] != change["second"]
    assert f"Content replaced since the baseline: {told}" in night.output.replace("\n", " ")
    assert told in (night.folder / "gate.md").read_text()
    assert told in (night.folder / "gate.xml").read_text()
    section = gate_section(night.folder)
    assert "exit code 1: a regression was found" in section
    assert f"changed: {told}" in section
    assert "Smallest change detectable here" in section


def test_a_slow_and_leaking_forward_pass_is_red_for_speed_and_memory(desk: Desk):
    night = slow_and_leaking(desk)
    assert night.code == 1, night.output
    rows = {row["metric"]: row for row in night.rows if row["cell"] == PIXELS}
    for metric in ("infer_peak_memory_bytes", "host_peak_memory_bytes"):
        assert rows[metric]["verdict"] == "regressed"
        assert rows[metric]["candidate"] > 1.3 * rows[metric]["baseline"]
        assert rows[metric]["changes"] == []
    for metric in ("infer_examples_per_second", "latency_p50_seconds"):
        # Where others took the machine meanwhile, the gate says so and passes no verdict on speed.
        busy = "busy machine" in rows[metric]["reasons"][0]
        assert rows[metric]["verdict"] == ("inconclusive" if busy else "regressed")
    rate = rows["infer_examples_per_second"]
    assert rate["candidate"] < 0.5 * rate["baseline"]


def test_a_cell_that_the_suite_lost_is_missing_and_exits_with_3(desk: Desk):
    night = missing_cell(desk)
    assert night.code == 3, night.output
    (row,) = night.told("missing")
    assert (row["cell"], row["reasons"]) == (NET, ["the candidate does not hold this cell"])
    assert "exit code 3: cells failed or are missing" in gate_section(night.folder)


def test_a_cell_that_fails_exits_with_3_and_says_why(desk: Desk):
    night = failed_cell(desk)
    assert night.code == 3, night.output
    (row,) = night.told("failed")
    assert row["cell"] == NET
    assert row["reasons"][0].startswith("seed 0 is error: ")
    assert "weights.safetensors" in row["reasons"][0]


def test_another_class_of_device_exits_with_4(desk: Desk):
    night = other_hardware(desk)
    assert night.code == 4, night.output
    rows = night.told("not_comparable")
    assert {row["cell"] for row in rows} == {NET, PIXELS}
    reason = "they ran on different classes of device (cuda:Another GPU and cpu:"
    assert all(row["reasons"][0].startswith(reason) for row in rows)
    assert "different classes of device" in gate_section(night.folder)


def test_a_changed_suite_exits_with_4_and_names_the_field(desk: Desk):
    night = changed_suite(desk)
    assert night.code == 4, night.output
    rows = night.told("not_comparable")
    assert {row["cell"] for row in rows} == {NET, PIXELS}
    assert all("cell: image_size" in row["reasons"][0] for row in rows)
    assert "another task was measured" in (night.folder / "gate.md").read_text()
