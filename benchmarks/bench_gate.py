"""Claim gate: ``bench compare`` over 1,000 cells of 2,000 predictions.

Run: ``pytest benchmarks/bench_gate.py``, about a minute.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from bench.metrics import pack_predictions
from bench.record import PredictionSet
from bench.store import open_store
from benchmarks.measure import Ended, run_process, size
from benchmarks.results import Row, at_most
from tests.records import make_record

_ROOT = Path(__file__).parent.parent
_NUM_CELLS = size(1000, 20)
_NUM_EXAMPLES = size(2000, 200)
_MIB = 1 << 20


def test_a_large_grid_is_judged_within_ten_seconds(claim, tmp_path) -> None:  # type: ignore[no-untyped-def]
    def measure() -> list[Row]:
        _fill(tmp_path / "results" / "bench.db")
        saved = _bench(["baseline", "save", "main", "--from", "vision"], tmp_path)
        assert saved.code == 0, (tmp_path / "log.txt").read_text()[-2000:]
        ended = _bench(["compare", "main"], tmp_path)
        assert ended.code == 0, (tmp_path / "log.txt").read_text()[-2000:]
        path = tmp_path / "results" / "baselines" / "main.json"
        note = (
            f"peak memory {ended.peak_bytes / _MIB:.0f} MiB, {ended.timing.cpu_seconds:.1f} s of "
            f"CPU, baseline {path.stat().st_size / _MIB:.1f} MiB"
        )
        setting = f"{_NUM_CELLS:,} cells, {_NUM_EXAMPLES:,} predictions each"
        seconds = ended.timing.wall_seconds
        return [Row("gate", "bench compare", setting, seconds, at_most(10), "s", note=note)]

    claim(measure)


def _bench(arguments: list[str], folder: Path) -> Ended:
    code = "import os, sys; os.chdir(sys.argv.pop(1)); from bench.cli import main; main()"
    command = [sys.executable, "-c", code, str(folder), *arguments]
    return run_process(command, environ={"PYTHONPATH": str(_ROOT)}, log=folder / "log.txt")


def _fill(path: Path) -> None:
    with open_store(str(path)) as store:
        for seed in (0, 1):
            run = store.start_run("vision")
            rng = np.random.default_rng(seed)
            for index in range(_NUM_CELLS):
                record = make_record(
                    backbone=f"timm/net{index}", strategy="full", run_id=run.id, accuracy=0.9
                )
                packed = _predictions(rng, index)
                store.add(record.model_copy(update={"predictions": (packed,)}))


def _predictions(rng: np.random.Generator, index: int) -> PredictionSet:
    """Return what a night sees: a model's own errors, 1% of them other than the night before."""
    labels = np.random.default_rng(0).integers(0, 10, _NUM_EXAMPLES)
    wrong = np.random.default_rng(100 + index).random(_NUM_EXAMPLES) > 0.9
    wrong ^= rng.random(_NUM_EXAMPLES) < 0.01
    logits = np.zeros((_NUM_EXAMPLES, 10))
    logits[np.arange(_NUM_EXAMPLES), (labels + wrong) % 10] = 4
    logits += rng.normal(0, 0.1, logits.shape)
    ids = [f"example {number}" for number in range(_NUM_EXAMPLES)]
    return pack_predictions("test", ids, "split", logits, labels)
