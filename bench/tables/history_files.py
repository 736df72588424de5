"""A history -> JSON and CSV with full numbers in base units; knows no terminal and no store."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from bench.gate.trends import CellTrend, History, Run, Series
from bench.gate.values import Metric

FORMAT_VERSION = 1


def history_json(history: History, metrics: Sequence[Metric] | None = None) -> str:
    """Return every series with full numbers in base units; a gap is null and has a reason.

    Args:
        history: The runs to give.
        metrics: Those to give; None gives all.
    """
    runs = [
        {"run_id": run.run_id, "started_at": run.started_at.isoformat()} for run in history.runs
    ]
    value = {
        "format_version": FORMAT_VERSION,
        "suite": history.suite,
        "num_earlier_runs": history.num_earlier,
        "num_earlier_changes": history.num_earlier_shifts,
        "problems": list(history.problems),
        "runs": runs,
        "cells": [_cell_json(trend, history, metrics) for trend in history.cells],
    }
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def _cell_json(
    trend: CellTrend, history: History, metrics: Sequence[Metric] | None
) -> dict[str, Any]:
    return {
        "cell": trend.name,
        "other_conditions": [
            {
                "run_id": history.runs[begin.position].run_id,
                "conditions": begin.conditions,
                "changes": [asdict(change) for change in begin.changes],
            }
            for begin in trend.beginnings
        ],
        "series": [
            _series_json(series, history.runs)
            for series in trend.series
            if metrics is None or series.metric in metrics
        ],
    }


def _series_json(series: Series, runs: Sequence[Run]) -> dict[str, Any]:
    return {
        "metric": series.metric.value,
        "conditions": series.conditions,
        "newest": series.newest,
        "level": series.levels[-1].value if series.levels else None,
        "values": list(series.values),
        "gaps": [gap or None for gap in series.gaps],
        "changes": [
            {
                "kind": shift.kind.value,
                "run_id": runs[shift.position].run_id,
                "started_at": runs[shift.position].started_at.isoformat(),
                "before": shift.before,
                "after": shift.after,
                "better": shift.better,
                "reason": shift.reason,
                "since_run_id": shift.since,
                "changed": [asdict(change) for change in shift.changes],
            }
            for shift in series.shifts
        ],
    }


_CSV = (
    "suite", "cell", "metric", "conditions", "run_id", "started_at", "value", "gap", "change",
    "before", "after", "better", "reason",
)  # fmt: skip


def history_csv(history: History, metrics: Sequence[Metric] | None = None) -> str:
    """Return a line per run of every series, in base units, with the change that begins there.

    Args:
        history: The runs to give.
        metrics: Those to give; None gives all.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_CSV)
    for trend in history.cells:
        for series in trend.series:
            if metrics is None or series.metric in metrics:
                writer.writerows(_csv_rows(series, history))
    return file.getvalue()


def _csv_rows(series: Series, history: History) -> list[list[Any]]:
    shifts = {shift.position: shift for shift in series.shifts}
    rows = []
    for place, run in enumerate(history.runs):
        shift = shifts.get(place)
        change = [shift.kind.value, shift.before, shift.after, shift.better] if shift else [""] * 4
        rows.append(
            [
                history.suite,
                series.cell,
                series.metric.value,
                series.conditions,
                run.run_id,
                run.started_at.isoformat(),
                series.values[place],
                series.gaps[place],
                *change,
                shift.reason if shift else "",
            ]
        )
    return rows
