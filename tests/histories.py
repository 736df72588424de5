"""Synthetic stores of many nights, and the real command line on them; no torch."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from bench.cli import main
from bench.metrics import pack_predictions
from bench.record import Record
from bench.store import open_store
from tests.records import make_record

COUNT = 1000
DAY = 24 * 60
Ran = Callable[..., tuple[int, str, str]]


@dataclass(frozen=True)
class Evening:
    """What one night showed of one cell; `None` is a night without it."""

    accuracy: float = 0.9
    rate: float = 500.0
    memory: int = 200_000_000
    torch: str = "2.14.0"
    waiting: float | None = None
    wishes: dict[str, Any] = field(default_factory=dict)


def jitter(count: int, seed: int, spread: float = 0.01) -> list[float]:
    """Return factors around 1."""
    return [float(x) for x in np.exp(np.random.default_rng(seed).normal(0, spread, count))]


def predicted(record: Record, accuracy: float) -> Record:
    """Real predictions; a lower accuracy gets wrong what the higher one had right."""
    labels = np.random.default_rng(0).integers(0, 10, COUNT)
    draws = np.random.default_rng(1 + record.cell.seed).random(COUNT)
    logits = np.zeros((COUNT, 10))
    logits[np.arange(COUNT), np.where(draws < accuracy, labels, (labels + 1) % 10)] = 6
    ids = [f"example {index}" for index in range(COUNT)]
    packed = pack_predictions("test", ids, "split", logits, labels)
    return record.model_copy(update={"predictions": (packed,)})


def make_evening(evening: Evening, night: int, *, packed: bool = False, **cell: Any) -> Record:
    """Return the record of a cell in a night."""
    record = make_record(
        accuracy=evening.accuracy,
        rate=evening.rate,
        memory=evening.memory,
        minutes=DAY * night,
        **{"strategy": "full", **cell, **evening.wishes},
    )
    environment = record.environment.model_copy(
        update={"packages": {**record.environment.packages, "torch": evening.torch}}
    )
    update: dict[str, Any] = {"environment": environment}
    if evening.waiting is not None:
        for name in ("train_profile", "infer_profile"):
            busy = {"waiting_fraction": evening.waiting}
            update[name] = getattr(record, name).model_copy(update=busy)
    record = record.model_copy(update=update)
    return predicted(record, evening.accuracy) if packed else record


def add_night(records: Iterable[Record], path: str = "results/bench.db") -> int:
    """Store records as a new run of their suite and return its number."""
    with open_store(path) as store:
        run = store.start_run("vision")
        for record in records:
            store.add(record.model_copy(update={"run_id": run.id}))
        return run.id


def add_nights(evenings: Sequence[Evening | None], first: int = 0) -> None:
    """Store a run per night of one cell, and a quiet control beside it."""
    for night, evening in enumerate(evenings, start=first):
        control = make_evening(Evening(), night, backbone="plain/pixels", strategy="linear_probe")
        own = [] if evening is None else [make_evening(evening, night)]
        add_night([*own, control])


def command_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Ran:
    """Return what runs the real command line: exit code, output and errors."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bench", *words])
        monkeypatch.setenv("COLUMNS", "160")
        with pytest.raises(SystemExit) as ended:
            main()
        sys.stdout.flush()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run
