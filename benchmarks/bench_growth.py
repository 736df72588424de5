"""Claims 6 and 8: what happens when stores, sets and folders grow.

Run: ``pytest benchmarks/bench_growth.py``, about 5 minutes and 4 GiB of disk.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import yaml

from bench import registry
from bench.environment import device_class
from bench.plan import plan_cells
from bench.record import Record
from bench.spec import BackboneSpec, DatasetSpec, Suite
from bench.store import RunInfo, Store, open_store
from bench.strategies.linear_probe import LinearProbeSpec
from bench.strategies.probe import LabelledFeatures, fit_probe
from bench.suite import load_suite
from bench.survey import request_key
from bench.sweep import SweepOptions, run_sweep
from benchmarks.bench_probe import draw
from benchmarks.measure import Ended, interleave, run_process, size, timed
from benchmarks.memory import MemoryWatch, write_photos
from benchmarks.results import Row, at_most

_ROOT = Path(__file__).parent.parent
_MIB = 1 << 20
_NUM_RECORDS = size(10_000, 200)
_DATASETS = ("digits", "mnist-5k")
_SEEDS = size(10, 2)
_SECONDS_EACH = 5.0


def test_commands_stay_quick_over_ten_thousand_records(claim, tmp_path) -> None:  # type: ignore[no-untyped-def]
    def measure() -> list[Row]:
        suite_file = _write_suite(tmp_path)
        store = tmp_path / "bench.db"
        _fill(store, suite_file, tmp_path)
        name = suite_file.stem
        commands = {
            "plan": ["plan", str(suite_file), "--store", str(store)],
            "table": ["table", name, "--store", str(store), "-o", str(tmp_path / "table.csv")],
            "report": ["report", name, "--store", str(store), "-o", str(tmp_path / "report")],
        }
        rows = []
        for command, arguments in commands.items():
            ended = _bench(arguments, tmp_path)
            setting = f"{_NUM_RECORDS:,} records of {_NUM_RECORDS // _SEEDS:,} rows"
            wall = ended.timing.wall_seconds
            memory = (
                f"peak memory {ended.peak_bytes / _MIB:.0f} MiB, "
                f"{ended.timing.cpu_seconds:.1f} s of CPU"
            )
            rows.append(
                Row(
                    "6", f"bench {command}", setting, wall, at_most(_SECONDS_EACH), "s", note=memory
                )
            )
        return rows

    claim(measure)


def _bench(arguments: list[str], folder: Path) -> Ended:
    log = folder / "log.txt"
    command = [sys.executable, "-m", "bench", *arguments]
    ended = run_process(command, environ={"PYTHONPATH": str(_ROOT)}, log=log)
    assert ended.code == 0, log.read_text()[-2000:]
    return ended


def _write_suite(folder: Path) -> Path:
    """Write a suite of as many cells as there shall be records, of names that exist."""
    count = _NUM_RECORDS // (len(_DATASETS) * _SEEDS)
    names = registry.backbone_source("timm/resnet18").names()[:count]
    value = {
        "name": "growth",
        "backbones": [{"name": name, "weights": "random"} for name in names],
        "datasets": list(_DATASETS),
        "strategies": ["linear_probe"],
        "seeds": list(range(_SEEDS)),
        "image_size": 64,
    }
    path = folder / "growth.yaml"
    path.write_text(yaml.safe_dump(value))
    return path


def _fill(store: Path, suite_file: Path, folder: Path) -> None:
    """Store a record for every cell of the suite: real ones under its names, with more mistakes."""
    rng = np.random.default_rng(0)
    real = _measure_real(folder)
    cells = plan_cells(load_suite(suite_file))
    assert len(cells) == _NUM_RECORDS
    with open_store(str(store)) as opened:
        run = opened.start_run("growth")
        for cell in cells:
            original = real[cell.dataset.name]
            assert original.environment is not None
            key = request_key(cell)
            changes = {"cell": cell, "request_key": key, "key": key, "run_id": run.id}
            opened.add(_spoiled(original, rng).model_copy(update=changes))
        _check_held(opened, run)


def _spoiled(record: Record, rng: np.random.Generator) -> Record:
    """Return the record with a few more wrong answers on test, as rows differ in theirs."""
    (packed,) = record.predictions
    predicted = np.frombuffer(packed.predicted, dtype="<i4").copy()
    predicted[rng.random(len(predicted)) < rng.uniform(0, 0.1)] = -1
    changed = packed.model_copy(update={"predicted": predicted.tobytes()})
    return record.model_copy(update={"predictions": (changed,)})


def _check_held(store: Store, run: RunInfo) -> None:
    assert len(store.ok_request_keys(run.id, device_class("cpu"))) == _NUM_RECORDS


def _measure_real(folder: Path) -> dict[str, Record]:
    """Return a real record per dataset, with what a probe of a network records."""
    suite = Suite(
        name="real",
        backbones=(BackboneSpec(name="packaged/efficientnet-lite0"),),
        datasets=tuple(DatasetSpec(name=name, train_examples=400) for name in _DATASETS),
        strategies=(LinearProbeSpec(),),
        image_size=32,
    )
    options = SweepOptions(cache_dir=str(folder / "cache"))
    with open_store(str(folder / "real.db")) as store:
        result = run_sweep(plan_cells(suite), store=store, options=options)
        kept = store.whole_records(result.run.id)
    assert result.complete
    return {record.cell.dataset.name: record for record in kept}


def test_the_time_of_a_probe_is_linear_in_examples(claim) -> None:  # type: ignore[no-untyped-def]
    counts = [size(2000, 250) << doubling for doubling in range(5)]

    def measure() -> list[Row]:
        ways = {str(count): _probe(count) for count in counts}
        found = interleave(ways, rounds=size(3, 1))
        seconds = [found[str(count)].wall_seconds for count in counts]
        slope = float(np.polyfit(np.log(counts), np.log(seconds), 1)[0])
        setting = f"{counts[0]:,} to {counts[-1]:,} x 256, 10 classes, 45 values"
        note = ", ".join(f"{value:.2f} s" for value in seconds)
        what = "probe: power of n in its time, n doubled four times"
        return [Row("6", what, setting, slope, at_most(1.1), unit="exponent", note=note)]

    claim(measure)


def _probe(count: int):  # type: ignore[no-untyped-def]
    data = draw(count + 200, 256, 10)
    values = data.features.float()
    train = LabelledFeatures(values[:count], data.labels[:count])
    val = LabelledFeatures(values[count:], data.labels[count:])
    path = LinearProbeSpec().l2
    assert isinstance(path, tuple)
    return lambda: timed(lambda: fit_probe(train, val, l2_path=path, num_classes=10))


def test_a_sweep_over_a_large_folder_keeps_memory_low(claim, tmp_path) -> None:  # type: ignore[no-untyped-def]
    num_images = size(20_000, 400)

    def measure() -> list[Row]:
        write_photos(tmp_path / "photos", num_images)
        suite = _folder_suite(tmp_path)
        options = SweepOptions(cache_dir=str(tmp_path / "cache"), limits=suite.limits)
        with open_store(str(tmp_path / "bench.db")) as store, MemoryWatch() as watch:
            result = run_sweep(plan_cells(suite), store=store, options=options)
        assert result.complete, result.records
        assert watch.highest_bytes > 0, "no child was seen: nothing was measured"
        setting = f"{num_images:,} JPEG of 288 x 256, timm/test_resnet at 224 px, linear_probe"
        note = f"cold, {sum(record.wall_seconds for record in result.records):.0f} s"
        return [
            Row(
                "8",
                "RssAnon of a sweep's child above its floor",
                setting,
                watch.highest_bytes / _MIB,
                at_most(1024),
                unit="MiB",
                note=note,
            )
        ]

    claim(measure)


def _folder_suite(folder: Path) -> Suite:
    return Suite.model_validate(
        {
            "name": "folder",
            "backbones": [{"name": "timm/test_resnet", "weights": "random"}],
            "datasets": [f"folder:{folder / 'photos'}"],
            "strategies": [LinearProbeSpec()],
            "image_size": 224,
            "limits": {"profile_time": 1.0},
        }
    )
