"""Few-shot text classification as embedding benchmarks do it, from a CSV, beside scikit-learn.

Run: ``python -m benchmarks.few_shot_text``. Frozen encoder, mean pooling, 8 examples a class, ten
draws, the whole test file, a logistic regression at C = 1 on features as they are. It measures the
same suite with one draw and with ten, each from an empty cache, and fits scikit-learn's
`LogisticRegression` on the same embeddings and draws.

The data is the ChatterBot corpus, which a pip package holds: what somebody says first, in one of 17
languages. A class is a language with a topic, as ``english/food``: the language is easy to tell,
the topic is not, and the encoder was trained on English. Half of each class's texts are in the
train file, from which draws are made: draws of one class share texts where it has few.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import files
from pathlib import Path

import numpy as np
import yaml
from sklearn.linear_model import LogisticRegression

from bench.artifacts import ArtifactCache
from bench.datasets.drawing import Draw
from bench.datasets.prepare import PreparedData, prepare_data
from bench.digests import digest_text
from bench.record import Record
from bench.registry import backbone_source
from bench.spec import Numerics
from bench.store import open_store
from bench.strategies.features import extract_features
from bench.tables.rows import Row, summarise
from benchmarks.tasks import BenchRuntime

MIN_TEXTS = 20
"""Fewest texts of a class that is kept: half of them are the pool of the draws."""

SHOTS = 8
L2 = 1.0

_SUITE = """\
name: few-shot-text
backbones: [packaged/minilm-l6]
datasets:
  - {{name: "table:{folder}/train.csv", test: test.csv, shots: {shots}}}
strategies:
  - {{name: linear_probe, l2: {l2}, standardize: false}}
seeds: 0..{last_seed}
numerics: fp32
limits: {{profile_time: 0.2s}}
"""


@dataclass(frozen=True)
class ScoredDraw:
    """One seed's result by both solvers.

    Attributes:
        ours: Test accuracy of the record.
        theirs: Of scikit-learn on the same embeddings and the same train examples.
    """

    seed: int
    ours: float
    theirs: float


def main() -> None:
    """Build the data, measure one draw and ten, compare, print."""
    with tempfile.TemporaryDirectory(prefix="few-shot-text-") as name:
        folder = Path(name)
        counts = save_corpus(folder)
        print(f"{len(counts)} classes, {min(counts.values())} texts in the smallest")
        seconds = {count: run_suite(folder, num_seeds=count) for count in (1, 10)}
        records = read_records(folder, num_seeds=10)
        print(describe(summarise(records)[0]))
        for count, taken in seconds.items():
            encoding = sum_phase(read_records(folder, num_seeds=count), "features")
            print(f"draws {count}: {taken:.1f} s by the clock, {encoding:.1f} s of them encoding")
        print(f"ten draws cost {seconds[10] / seconds[1]:.2f} times one")
        draws = compare_draws(folder / "comparison", records)
        for draw in draws:
            print(f"seed {draw.seed}: bench {draw.ours:.4f}, scikit-learn {draw.theirs:.4f}")
        worst = max(abs(draw.ours - draw.theirs) for draw in draws)
        print(f"largest difference of a draw: {100 * worst:.2f} points")


def save_corpus(folder: Path, *, max_classes: int | None = None) -> Mapping[str, int]:
    """Write ``train.csv`` and ``test.csv`` and return how many texts each class has.

    A text that stands under two classes has no right answer and is left out. Which half a text is
    in depends on the text alone. The two files list their classes in opposite order.

    Args:
        folder: Must exist.
        max_classes: Keep those with the fewest texts; None keeps all.
    """
    pairs = list(dict.fromkeys(_read_corpus()))
    times = Counter(text for text, _ in pairs)
    by_class: dict[str, list[str]] = {}
    for text, label in pairs:
        if times[text] == 1:
            by_class.setdefault(label, []).append(text)
    kept = {label: sorted(texts, key=digest_text) for label, texts in by_class.items()}
    kept = {label: texts for label, texts in kept.items() if len(texts) >= MIN_TEXTS}
    chosen = sorted(sorted(kept, key=lambda label: (len(kept[label]), label))[:max_classes])
    halves = {label: len(kept[label]) // 2 for label in chosen}
    _save(folder / "train.csv", {label: kept[label][: halves[label]] for label in chosen})
    _save(folder / "test.csv", {label: kept[label][halves[label] :] for label in chosen[::-1]})
    return {label: len(kept[label]) for label in chosen}


def _read_corpus() -> Iterator[tuple[str, str]]:
    """Yield the first turn of every exchange, and its language and topic."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    listed = (str(file.locate()) for file in files("chatterbot-corpus") or ())
    for path in sorted(Path(name) for name in listed if name.endswith(".yml")):
        content = yaml.load(path.read_text(encoding="utf-8"), loader)
        for exchange in content["conversations"]:
            if text := " ".join(str(exchange[0]).split()):
                yield text, f"{path.parent.name}/{path.stem}"


def _save(path: Path, by_class: Mapping[str, Sequence[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([text, label] for label, texts in by_class.items() for text in texts)


def suite_text(folder: Path, *, num_seeds: int) -> str:
    """Return the suite on the files of `save_corpus`."""
    return _SUITE.format(folder=folder, shots=SHOTS, l2=L2, last_seed=num_seeds - 1)


def run_suite(folder: Path, *, num_seeds: int) -> float:
    """Run the suite with some seeds from an empty cache and return its seconds by the clock."""
    own = folder / f"{num_seeds}-draws"
    own.mkdir()
    suite = own / "suite.yaml"
    suite.write_text(suite_text(folder, num_seeds=num_seeds), encoding="utf-8")
    command = [sys.executable, "-m", "bench", "run", str(suite), "--store", str(own / "bench.db")]
    command += ["--report", str(own / "report")]
    environ = os.environ | {"BENCH_CACHE": str(own / "cache")}
    began = time.perf_counter()
    subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def read_records(folder: Path, *, num_seeds: int) -> list[Record]:
    """Return the records of a run of `run_suite`, by seed."""
    with open_store(str(folder / f"{num_seeds}-draws" / "bench.db"), create=False) as store:
        records = store.records("few-shot-text")
    return sorted(records, key=lambda record: record.cell.seed)


def sum_phase(records: Sequence[Record], phase: str) -> float:
    """Return the seconds that some cells spent in a phase together."""
    return sum(record.seconds.get(phase, 0.0) for record in records)


def describe(row: Row) -> str:
    """Return what a table says of ten draws: mean, spread, interval."""
    assert row.test_accuracy is not None and row.test_accuracy_std is not None
    return (
        f"{row.dataset}: {row.num_seeds} draws, test accuracy {row.test_accuracy:.4f}, spread "
        f"{row.test_accuracy_std:.4f}, interval [{row.test_accuracy_low:.4f}, "
        f"{row.test_accuracy_high:.4f}]"
    )


def compare_draws(cache: Path, records: Sequence[Record]) -> list[ScoredDraw]:
    """Return both solvers' accuracy for every record, on the draws and embeddings of its cell.

    Args:
        cache: Of artifacts; embeddings that cells of this scope left there are the ones compared.
        records: Of one suite.
    """
    runtime = BenchRuntime(cache, Numerics.FP32)
    draws = []
    for record in records:
        assert record.test is not None and record.data is not None
        data = _prepare(record, runtime.cache)
        train = extract_features(data.backbone, data.train, runtime).numpy()
        test = extract_features(data.backbone, data.test, runtime).numpy()
        assert data.train.ids_digest == record.data.splits["train"].ids_digest
        peer = LogisticRegression(C=1 / L2, tol=1e-6, max_iter=5000)
        peer.fit(train, data.train.labels)
        right = np.mean(peer.predict(test) == data.test.labels)
        draws.append(ScoredDraw(record.cell.seed, record.test.accuracy, float(right)))
    return draws


def _prepare(record: Record, cache: ArtifactCache) -> PreparedData:
    cell = record.cell
    source = backbone_source(cell.backbone.name)
    return prepare_data(
        cell.dataset,
        backbone=source.load(cell.backbone, image_size=None, seed=cell.seed),
        draw=Draw(cell.split_seed, cell.seed, needs_val=False),
        cache=cache,
    )


if __name__ == "__main__":
    main()
