"""The columns of the report's results table; knows no HTML."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.tables import scale
from bench.tables.render import accuracy_text
from bench.tables.rows import Row


@dataclass(frozen=True)
class Column:
    """A column of the results table.

    Attributes:
        value: What it is sorted by; None comes last.
        help: What it means, for the tip of its head.
        extra: Whether it is hidden until more columns are asked for.
    """

    title: str
    help: str
    value: Callable[[Row], float | str | None]
    text: Callable[[Row], str]
    numeric: bool = True
    extra: bool = False


def _number(
    title: str, help: str, name: str, text: Callable[[Any], str], *, extra: bool = False
) -> Column:
    return Column(
        title,
        help,
        lambda row: getattr(row, name),
        lambda row: text(getattr(row, name)),
        extra=extra,
    )


def _word(title: str, help: str, name: str, *, extra: bool = False) -> Column:
    def text(row: Row) -> str:
        value = getattr(row, name)
        return scale.ABSENT if value is None else str(value)

    return Column(title, help, lambda row: getattr(row, name), text, numeric=False, extra=extra)


def _middle_rank(row: Row) -> float | None:
    if row.rank_low is None or row.rank_high is None:
        return None
    return (row.rank_low + row.rank_high) / 2


COLUMNS = (
    _word("Backbone", "The pretrained feature extractor", "backbone"),
    _word("Dataset", "The labelled examples", "dataset"),
    _word("Strategy", "How the backbone is adapted", "strategy"),
    Column(
        "Accuracy %",
        "Top-1 on the test split, mean over seeds; the colour scale is per dataset",
        lambda row: row.test_accuracy,
        accuracy_text,
    ),
    Column(
        "95% interval",
        "Where the accuracy over all data of this kind, and over other seeds, lies",
        lambda row: row.test_accuracy_low,
        lambda row: scale.interval(row.test_accuracy_low, row.test_accuracy_high),
    ),
    Column(
        "Rank",
        "Where its rank by accuracy on its dataset lies, at 95% confidence",
        _middle_rank,
        lambda row: scale.rank(row.rank_low, row.rank_high),
    ),
    _number(
        "Balanced %",
        "Mean recall of the classes on test",
        "test_balanced_accuracy",
        scale.percent,
        extra=True,
    ),
    _number(
        "Macro-F1 %", "Mean F1 over classes on test", "test_macro_f1", scale.percent, extra=True
    ),
    _number("Train /s", "Examples per second, plain step", "train_examples_per_second", scale.rate),
    _number(
        "Infer /s", "Examples per second, forward pass", "infer_examples_per_second", scale.rate
    ),
    _number(
        "p50 ms",
        "Median latency of one example, model only",
        "latency_p50_seconds",
        scale.milliseconds,
    ),
    _number(
        "p95 ms", "95th percentile of it", "latency_p95_seconds", scale.milliseconds, extra=True
    ),
    _number(
        "End to end ms",
        "Median from an encoded example to its label",
        "end_to_end_p50_seconds",
        scale.milliseconds,
        extra=True,
    ),
    _number(
        "Infer MiB", "Peak memory of the forward pass", "infer_peak_memory_bytes", scale.megabytes
    ),
    _number(
        "Train MiB", "Peak memory of the training step", "train_peak_memory_bytes", scale.megabytes
    ),
    _number(
        "Host MiB",
        "Peak resident memory of the whole cell",
        "host_peak_memory_bytes",
        scale.megabytes,
        extra=True,
    ),
    _number("Parameters", "Backbone and head", "num_parameters", scale.count),
    _number(
        "Trained",
        "Parameters that received gradients or a fit",
        "num_trainable_parameters",
        scale.count,
        extra=True,
    ),
    _number("FLOPs", "Of one forward pass, per example", "forward_flops", scale.count, extra=True),
    _number(
        "Time",
        "Per cell, as if it shared no work with others",
        "standalone_seconds",
        scale.duration,
    ),
    _number("Paid", "Per cell, with shared work", "wall_seconds", scale.duration, extra=True),
    _number(
        "Val %",
        "Accuracy on val, which chose the setting",
        "val_accuracy",
        scale.percent,
        extra=True,
    ),
    _number(
        "Top-5 %",
        "True class among the five most likely",
        "test_top5_accuracy",
        scale.percent,
        extra=True,
    ),
    _number(
        "NLL",
        "Mean negative log-likelihood on test, nats",
        "test_nll",
        lambda value: scale.ABSENT if value is None else f"{value:.3f}",
        extra=True,
    ),
    _number("ECE %", "Calibration error on test", "test_ece", scale.percent, extra=True),
    _word("Precision", "Of the forward pass", "precision", extra=True),
    Column(
        "Seeds",
        "Seeds that ended ok, of those tried",
        lambda row: row.num_seeds,
        lambda row: f"{row.num_seeds}/{row.num_cells}",
    ),
    _word("Status", "ok, or how its gravest cell ended", "status"),
    _word("Measured", "When its newest cell started, UTC", "measured_at", extra=True),
    _word("Key", "First digits, for bench show", "key", extra=True),
)
