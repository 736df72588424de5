import csv
import io
import json
from dataclasses import asdict
from datetime import timedelta

import pyarrow.parquet as pq
import pytest

from bench.errors import UsageError
from bench.record import Status
from bench.spec import BackboneSpec
from bench.stats import accuracy_interval
from bench.tables import (
    FORMATS,
    best_rows,
    failed_cells,
    format_for,
    render,
    scale,
    summarise,
    write_output,
)
from bench.tables.detail import record_text
from bench.tables.labels import label_cells
from bench.tables.render import accuracy_text
from bench.tables.rows import COLUMNS
from bench.tables.terminal import terminal_text
from tests.golden.update import GOLDEN, golden_texts
from tests.records import failed_records, make_record, vision_records

PROMISED = (
    "backbone dataset strategy num_seeds status test_accuracy test_accuracy_low "
    "test_accuracy_high test_macro_f1 train_examples_per_second infer_examples_per_second "
    "latency_p50_seconds latency_p95_seconds train_peak_memory_bytes infer_peak_memory_bytes "
    "host_peak_memory_bytes num_parameters num_trainable_parameters forward_flops wall_seconds "
    "standalone_seconds"
)


def _row(*records):
    (row,) = summarise(records)
    return row


def test_every_promised_column_is_there():
    assert set(PROMISED.split()) <= set(COLUMNS)


def test_seeds_become_one_row_with_their_mean_and_interval():
    row = _row(make_record(seed=0, accuracy=0.9), make_record(seed=1, accuracy=0.92))
    interval = accuracy_interval([900, 920], [1000, 1000])
    assert (row.num_seeds, row.num_cells, row.status) == (2, 2, "ok")
    assert row.test_accuracy == pytest.approx(0.91)
    assert (row.test_accuracy_low, row.test_accuracy_high) == (interval.low, interval.high)
    assert row.test_accuracy_std == pytest.approx(0.01414, abs=1e-5)


def test_one_seed_has_no_spread():
    assert _row(make_record()).test_accuracy_std is None


def test_costs_of_a_row_are_in_base_units():
    row = _row(make_record(strategy="full", rate=500.0, memory=1000))
    assert row.train_examples_per_second == 100.0
    assert row.infer_examples_per_second == 500.0
    assert row.latency_p50_seconds == pytest.approx(0.006)
    assert row.latency_p95_seconds == pytest.approx(0.0072)
    assert (row.train_peak_memory_bytes, row.infer_peak_memory_bytes) == (4000, 1000)
    assert (row.memory_kind, row.host_peak_memory_bytes) == ("host", 2000)
    assert (row.wall_seconds, row.standalone_seconds) == (12.5, 14.5)
    assert (row.train_batch_size, row.infer_batch_size, row.precision) == (64, 64, "bf16")


def test_memory_is_the_devices_own_where_it_has_one():
    row = _row(make_record(device_memory=True, memory=5))
    assert (row.infer_peak_memory_bytes, row.memory_kind) == (5, "device")


def test_what_was_not_measured_is_absent_and_never_zero():
    record = make_record().model_copy(
        update={"infer_profile": None, "data": None, "environment": None, "num_parameters": None}
    )
    row = _row(record)
    for name in ("infer_examples_per_second", "latency_p50_seconds", "majority_accuracy", "device"):
        assert getattr(row, name) is None
    assert _row(make_record()).train_examples_per_second is None


def test_a_failed_cell_has_no_score():
    row = _row(make_record(status=Status.OOM))
    assert (row.status, row.num_seeds, row.test_accuracy, row.wall_seconds) == (
        "oom",
        0,
        None,
        None,
    )
    assert accuracy_text(row) == "oom"


def test_a_row_with_one_failed_seed_says_so_and_is_not_best():
    rows = summarise(
        [
            make_record(seed=0, accuracy=0.99),
            make_record(seed=1, status=Status.DIVERGED),
            make_record(seed=2, status=Status.CRASHED),
            make_record(strategy="full", accuracy=0.5),
            make_record(strategy="partial", accuracy=0.2),
        ]
    )
    assert (rows[0].status, rows[0].num_seeds, rows[0].num_cells) == ("crashed", 1, 3)
    assert accuracy_text(rows[0]) == "99.0 (1/3 ok)"
    assert (rows[0].rank_low, rows[0].rank_high) == (None, None)
    assert [row.strategy for row in best_rows(rows)] == ["full"]


def test_costs_on_two_classes_of_device_are_not_mixed():
    row = _row(make_record(), make_record(seed=1, device_class="cuda:Synthetic GPU"))
    assert row.test_accuracy == pytest.approx(0.9)
    assert row.infer_examples_per_second is None
    assert row.wall_seconds is None
    assert row.device == "Synthetic CPU | Synthetic GPU"


def test_rates_at_two_batch_sizes_are_not_mixed():
    record = make_record(seed=1)
    profile = record.infer_profile.model_copy(update={"batch_size": 32})
    row = _row(make_record(), record.model_copy(update={"infer_profile": profile}))
    assert row.infer_examples_per_second is None
    assert row.infer_batch_size is None


def test_a_loss_that_is_not_finite_does_not_enter_a_mean():
    record = make_record(seed=1)
    scores = record.test.model_copy(update={"nll": float("inf")})
    row = _row(make_record(), record.model_copy(update={"test": scores}))
    assert row.test_nll == pytest.approx(0.3)


def test_variants_of_one_strategy_are_rows_that_say_in_what_they_differ():
    rows = summarise(
        make_record(strategy="partial", fields={"trainable_stages": n, "epochs": 3})
        for n in (1, [1, 2], None)
    )
    assert {row.strategy for row in rows} == {
        "partial (trainable_stages=1)",
        "partial (trainable_stages=1|2)",
        "partial (trainable_stages=default)",
    }


def test_a_seed_that_is_there_twice_counts_once_as_it_was_last():
    first, last = make_record(accuracy=0.5), make_record(accuracy=0.75)
    (row,) = summarise([first, last])
    assert (row.num_seeds, row.test_accuracy) == (1, 0.75)


def test_cells_of_two_image_sizes_are_two_datasets():
    record = make_record()
    larger = record.model_copy(update={"cell": record.cell.model_copy(update={"image_size": 96})})
    assert {row.dataset for row in summarise([record, larger])} == {
        "digits (image_size=64)",
        "digits (image_size=96)",
    }


def test_a_control_with_random_weights_is_labelled():
    assert _row(make_record(weights="random")).backbone == "packaged/efficientnet-lite0 (random)"


def test_backbones_that_differ_in_normalisation_are_two_rows():
    record = make_record()
    other = BackboneSpec(name=record.cell.backbone.name, mean=0.5)
    changed = record.model_copy(update={"cell": record.cell.model_copy(update={"backbone": other})})
    assert len(summarise([record, changed])) == 2


def test_runs_are_not_mixed():
    rows = summarise([make_record(), make_record(run_id=2)])
    assert [row.run_id for row in rows] == [1, 2]


def test_rows_say_when_and_under_which_versions_they_were_measured():
    row = _row(make_record(minutes=5), make_record(seed=1))
    assert row.measured_at == "2026-01-02T03:09:05+00:00"
    assert row.versions == "timm 1.0.31, torch 2.14.0, transfer-bench 0.1.0"
    assert [len(key) for key in row.key.split()] == [12, 12]


def test_failed_cells_carry_reason_phase_and_traceback():
    record = make_record(status=Status.TIMEOUT, message="took 9 s")
    (cell,) = failed_cells([make_record(), record])
    assert (cell.status, cell.phase, cell.reason) == ("timeout", "train", "RuntimeError: took 9 s")
    assert cell.traceback.endswith("RuntimeError: synthetic")
    assert cell.key == record.key[:12]


@pytest.mark.parametrize("name", ["table.md", "table.tex", "table_100.txt", "table_60.txt"])
def test_rendered_tables_are_as_the_golden_ones(name: str):
    assert golden_texts()[name] == (GOLDEN / name).read_text()


@pytest.mark.parametrize("width", [30, 60, 80, 100, 160])
def test_the_terminal_table_keeps_within_its_width(width: int):
    records = vision_records() + failed_records()
    text = terminal_text(summarise(records), failed_cells(records), width=width)
    tables, legend, _ = text.partition("\n= tied")
    assert legend
    assert max(map(len, tables.splitlines())) <= max(width, 51)


def test_a_wider_terminal_shows_more_columns():
    rows = summarise(vision_records())
    headers = [terminal_text(rows, (), width=width).splitlines()[2] for width in (60, 100, 130)]
    assert [len(header.split("  ")) for header in headers] == sorted(
        len(header.split("  ")) for header in headers
    )
    assert "seeds" in headers[2]
    assert "seeds" not in headers[0]


def test_many_failures_are_cut_with_a_count():
    records = [make_record(seed=seed, status=Status.ERROR) for seed in range(25)]
    text = terminal_text(summarise(records), failed_cells(records), width=100)
    assert "… and 5 more: bench report" in text


def test_a_failures_markup_stays_text_in_the_terminal():
    record = make_record(status=Status.ERROR, message="[bold red]x[/] \x1b[2J")
    text = terminal_text(summarise([record]), failed_cells([record]), width=100, colour=True)
    assert "[bold red]x[/]" in text
    assert "\x1b[2J" not in text


def test_no_rows_render_in_every_format():
    for form in FORMATS:
        assert isinstance(render([], form), bytes)
    assert json.loads(render([], "json")) == []


def test_csv_json_and_parquet_hold_the_same_unrounded_values():
    rows = summarise(vision_records(seeds=(0, 1)) + failed_records())
    expected = [asdict(row) for row in rows]
    assert json.loads(render(rows, "json")) == expected
    assert pq.read_table(io.BytesIO(render(rows, "parquet"))).to_pylist() == expected
    lines = list(csv.DictReader(io.StringIO(render(rows, "csv").decode())))
    texts = [{name: "" if v is None else str(v) for name, v in row.items()} for row in expected]
    assert lines == texts


def test_parquet_keeps_the_type_of_a_column_that_is_all_absent():
    schema = pq.read_table(io.BytesIO(render(summarise(failed_records()), "parquet"))).schema
    assert (schema.field("test_accuracy").type, schema.field("num_parameters").type) == (
        "double",
        "int64",
    )


@pytest.mark.parametrize(
    ("asked", "output", "form"),
    [
        (None, None, "table"),
        (None, "x.md", "markdown"),
        (None, "x.tex", "latex"),
        (None, "x.CSV", "csv"),
        (None, "x.unknown", "table"),
        ("json", "x.csv", "json"),
    ],
)
def test_the_format_is_asked_for_or_follows_from_the_file(asked, output, form, tmp_path):
    assert format_for(asked, output and tmp_path / output) == form


def test_an_unknown_format_is_refused_with_those_known():
    with pytest.raises(UsageError, match=r"no table format 'xml'. Known: table, csv, json"):
        format_for("xml", None)


def test_parquet_is_not_written_to_a_terminal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    with pytest.raises(UsageError, match="parquet is binary: name a file with -o"):
        format_for("parquet", None)


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot write .*file/x.csv: "):
        write_output(tmp_path / "file" / "x.csv", b"")
    write_output(tmp_path / "new" / "x.csv", b"1")
    assert (tmp_path / "new" / "x.csv").read_bytes() == b"1"


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (scale.percent, 0.9614, "96.1"),
        (scale.points, 0.0821, "+8.2"),
        (scale.points, -0.0821, "-8.2"),
        (scale.rate, 820.0, "820"),
        (scale.rate, 40_000.0, "40k"),
        (scale.rate, 999.7, "1.00k"),
        (scale.rate, 12.34, "12.3"),
        (scale.rate, 0.5, "0.50"),
        (scale.count, 4_652_008, "4.65M"),
        (scale.count, 8.2e9, "8.20G"),
        (scale.milliseconds, 0.00522, "5.22"),
        (scale.milliseconds, 1.234, "1234"),
        (scale.megabytes, 260 << 20, "260"),
        (scale.megabytes, 9 << 20, "9.0"),
        (scale.duration, 8.25, "8.2s"),
        (scale.duration, 95.0, "95s"),
        (scale.duration, 725.0, "12m 05s"),
        (scale.duration, 12_000.0, "3h 20m"),
    ],
)
def test_values_are_scaled_for_people(function, value, text):
    assert function(value) == text
    assert function(None) == scale.ABSENT


def test_a_record_is_shown_whole():
    text = record_text(make_record(strategy="full"))
    for part in (
        "packaged/efficientnet-lite0 · digits · full · seed 0",
        "accuracy               90.00% of 1000",
        "<- chosen",
        "epoch 5",
        "500 examples/s at batch 64",
        "p50 6 ms, p95 7.20 ms\n",
        "bf16, channels_last",
        "features               reused, 2.0s",
        "torch 2.14.0",
        "F1 90.0%",
    ):
        assert part in text, part


def test_an_epoch_that_waited_for_data_says_so_above_two_percent():
    record = make_record(strategy="full")
    shares = (0.25, 0.02, None)
    curve = [
        point.model_copy(update={"data_wait_fraction": share})
        for point, share in zip(record.curve, shares, strict=False)
    ]
    text = record_text(record.model_copy(update={"curve": tuple(curve)}))
    assert "5.0s, 25.0% of its steps' time waiting for data" in text
    assert text.count("waiting for data") == 1


def test_a_compiled_pass_says_so_and_which_latencies_are_not_its_own():
    record = make_record(strategy="full")
    plan = record.effective.forward.model_copy(
        update={
            "compiled": True,
            "compile_seconds": 21.5,
            "rejected": {"fp32 contiguous compiled": "InvalidCxxCompiler: none"},
        }
    )
    effective = record.effective.model_copy(update={"forward": plan})
    cell = record.cell.model_copy(update={"compile": True})
    text = record_text(record.model_copy(update={"effective": effective, "cell": cell}))
    assert "auto, or compiled\n" in text
    assert "bf16, channels_last, compiled in 22s, 2 threads" in text
    assert "fp32 contiguous compiled rejected: InvalidCxxCompiler: none" in text
    lines = {line.split("  ")[1]: line for line in text.splitlines() if "latency" in line}
    assert lines["latency, batch 1"].endswith("(eager)")
    assert lines["latency, batch 64"].endswith("ms")
    assert lines["latency end to end"].endswith("(eager)")
    assert "(eager)" not in record_text(record)


def test_a_speed_measured_on_a_busy_machine_is_shown_as_such():
    record = make_record(strategy="full")
    busy = record.train_profile.model_copy(update={"waiting_fraction": 0.25})
    calm = record.infer_profile.model_copy(update={"waiting_fraction": 0.1})
    text = record_text(record.model_copy(update={"train_profile": busy, "infer_profile": calm}))
    assert text.count("measured while the machine was busy: 25.0% of the time was waited") == 1
    assert "busy" not in record_text(record)


def test_cells_that_differ_in_compiling_alone_have_labels_of_their_own():
    cell = make_record(strategy="full").cell
    labels = label_cells([cell, cell.model_copy(update={"compile": True})])
    assert [label.strategy for label in labels] == ["full (compile=False)", "full (compile=True)"]


def test_a_failed_record_is_shown_with_its_traceback():
    text = record_text(make_record(status=Status.CRASHED, message="signal 9"))
    assert "message                signal 9" in text
    assert "RuntimeError: synthetic" in text
    assert "test\n" not in text


def test_a_class_name_cannot_steer_the_terminal():
    text = record_text(make_record(class_names=("\x1b[2J", "b")))
    assert "\x1b" not in text


def test_a_hundred_classes_are_shown_worst_first_and_cut():
    record = make_record(class_names=tuple(f"class {n}" for n in range(100)))
    worst = record.test.per_class[7].model_copy(update={"f1": 0.1})
    per_class = (*record.test.per_class[:7], worst, *record.test.per_class[8:])
    scores = record.test.model_copy(update={"per_class": per_class})
    text = record_text(record.model_copy(update={"test": scores})).partition("test by class\n")[2]
    assert text.splitlines()[0].startswith("  class 7 ")
    assert "… and 70 better ones" in text


def test_the_order_of_rows_is_by_dataset_then_best_first():
    rows = summarise(reversed(vision_records() + failed_records()))
    order = [(row.dataset, -(row.test_accuracy or -1.0)) for row in rows]
    assert order == sorted(order)


def test_measured_at_is_in_utc():
    record = make_record()
    elsewhere = record.started_at.astimezone(tz=None) + timedelta(0)
    assert _row(record.model_copy(update={"started_at": elsewhere})).measured_at.endswith("+00:00")


def test_of_thousands_of_rows_a_terminal_shows_the_most_accurate():
    rows = summarise(
        make_record(backbone=f"timm/b{n:03}", dataset=name, accuracy=0.9 - n / 1000)
        for name, count in (("digits", 503), ("mnist-5k", 2))
        for n in range(count)
    )
    text = terminal_text(rows, (), width=100)
    assert "… and 3 more below these: bench table --format csv" in text
    assert text.count("timm/b") == 502
    assert "timm/b499" in text and "timm/b500" not in text
