"""Claim 1: a linear-probe cell costs little more than one forward pass over its data.

Run: ``pytest benchmarks/bench_linear_probe.py``, about 15 minutes. The comparison with the package
``clip-benchmark`` needs it on the path: ``pip install --no-deps --target DIR clip-benchmark`` and
``PYTHONPATH=DIR``; its table row says so where it is absent.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch.utils.data import DataLoader

from bench import metrics
from bench.datasets.prepare import PreparedData
from bench.interfaces import Adapted, Backbone, Split
from bench.numerics import apply_plan, autocast, make_pass, prepare_inputs
from bench.record import NumericsPlan
from bench.spec import BackboneSpec, DatasetSpec
from bench.strategies.evaluation import eval_batch_size
from bench.strategies.features import plan_features
from bench.strategies.inputs import normalise
from bench.strategies.linear_probe import LinearProbe, LinearProbeSpec
from benchmarks import peers, tasks, textbook
from benchmarks.measure import Timing, interleave, size
from benchmarks.results import Row, at_least, at_most, compare

_EPOCHS = 10


@dataclass(frozen=True)
class Setup:
    """A backbone at a size with its data, decoded, and the numerics of its forward pass."""

    backbone: Backbone
    dataset: DatasetSpec
    data: PreparedData
    runtime: tasks.BenchRuntime
    plan: NumericsPlan

    @property
    def splits(self) -> tuple[Split, ...]:
        """Train, val and test."""
        assert self.data.val is not None
        return self.data.train, self.data.val, self.data.test

    @property
    def num_images(self) -> int:
        """Images of all splits."""
        return sum(len(split) for split in self.splits)

    @property
    def setting(self) -> str:
        """For the table."""
        name = self.backbone.info.name.partition("/")[2]
        pixels = self.backbone.preprocessing.image_size
        folded = " folded" if self.plan.folded else ""
        return f"{name}, {pixels} px, {self.num_images} images, {self.plan.precision}{folded}"


def set_up(
    spec: BackboneSpec, image_size: int, train_examples: int, runtime: tasks.BenchRuntime
) -> Setup:
    """Return the setup, with test cut to a quarter of train and val."""
    backbone = tasks.load_backbone(spec, image_size)
    dataset = DatasetSpec(name="mnist-5k", train_examples=train_examples)
    whole = tasks.prepare(backbone, dataset, runtime)
    test = tasks.part_of(whole.test, train_examples // 4)
    data = PreparedData(whole.train, whole.val, test, whole.info, whole.example, whole.backbone)
    plan = plan_features(backbone, data.train, runtime)
    return Setup(backbone, dataset, data, runtime, plan)


def run_cell(setup: Setup) -> Adapted:
    """Adapt and evaluate as `execute` does, from no features; the plan is known."""
    setup.runtime.forget("features")
    task = tasks.make_task(setup.backbone, setup.data, setup.runtime)
    adapted = LinearProbe().adapt(task, LinearProbeSpec())
    for split in setup.splits[1:]:
        logits = adapted.predict(split).numpy()
        metrics.score_logits(logits, split.labels, setup.data.info.class_names)
    return adapted


def forward_once(setup: Setup) -> Callable[[], None]:
    """Return one bare pass over bytes in memory, in the plan's numerics."""
    device = setup.runtime.device
    images = [torch.from_numpy(tasks.images_of(split)) for split in setup.splits]
    size = eval_batch_size(device, setup.plan)
    batches = [part for split in images for part in split.split(size)]
    forward = make_pass(apply_plan(setup.backbone.module, setup.plan).eval(), setup.plan)

    def run() -> None:
        with torch.inference_mode(), autocast(setup.plan, device):
            for batch in batches:
                forward(prepare_inputs(normalise(batch, setup.backbone.preprocessing), setup.plan))

    return run


def textbook_frozen(setup: Setup, part: int) -> Timing:
    """Return the time of the whole textbook loop, scaled from a part of train."""
    split = tasks.part_of(setup.data.train, part)
    examples = tasks.textbook_examples(setup.backbone, setup.dataset, setup.runtime, split)
    model = tasks.textbook_model(setup.backbone, len(setup.data.info.class_names))
    rates = textbook.measure_rates(model, examples, trained=())
    return rates.loop([len(each) for each in setup.splits], _EPOCHS)


@pytest.mark.parametrize(
    ("image_size", "train_examples", "target"),
    [(96, size(2000, 100), at_most(1.6)), (224, size(480, 100), at_most(1.25))],
    ids=["96px", "224px"],
)
def test_a_probe_cell_costs_little_more_than_a_forward_pass(  # type: ignore[no-untyped-def]
    claim, image_size, train_examples, target
) -> None:
    def measure_one(spec: BackboneSpec) -> Row:
        with tasks.temporary_runtime() as runtime:
            setup = set_up(spec, image_size, train_examples, runtime)
            forward = forward_once(setup)
            forward()
            found = interleave(
                {"forward": lambda: forward(), "cell": lambda: run_cell(setup) and None},
                rounds=size(3, 1),
            )
            return compare(
                "1",
                "linear probe cell over one forward pass",
                setup.setting,
                bench=found["cell"],
                plain=found["forward"],
                target=target,
                inverse=True,
            )

    claim(lambda: [measure_one(spec) for spec in tasks.BACKBONES])


@pytest.mark.parametrize("image_size", [96, 224])
def test_a_probe_cell_beats_the_textbook_loop(claim, image_size) -> None:  # type: ignore[no-untyped-def]
    part = size(192 if image_size == 96 else 96, 32)
    train_examples = size(2000 if image_size == 96 else 480, 100)

    def measure() -> list[Row]:
        with tasks.temporary_runtime() as runtime:
            setup = set_up(tasks.LITE0, image_size, train_examples, runtime)
            found = interleave(
                {
                    "cell": lambda: run_cell(setup) and None,
                    "textbook": lambda: textbook_frozen(setup, part),
                },
                rounds=size(3, 1),
            )
        row = compare(
            "1",
            "linear probe cell against the textbook frozen loop of 10 epochs",
            setup.setting,
            bench=found["cell"],
            plain=found["textbook"],
            target=at_least(30),
            note=f"textbook: an epoch and an evaluation of {part} images, extrapolated",
        )
        return [row]

    claim(measure)


def test_a_probe_cell_beats_clip_benchmark(claim) -> None:  # type: ignore[no-untyped-def]
    what, target = "linear probe cell against clip-benchmark's linear probe", at_least(10)
    if (peer := peers.load_clip_benchmark()) is None:
        claim(lambda: [Row("1", what, "", None, target, note="clip-benchmark is not installed")])
        pytest.skip("clip-benchmark is not on the path, see the head of this file")

    def measure() -> list[Row]:
        with tasks.temporary_runtime() as runtime:
            setup = set_up(tasks.LITE0, 96, size(2000, 100), runtime)
            loaders = _loaders(setup)
            scores: dict[str, float] = {}

            def run_peer(num_workers: int) -> None:
                module = copy.deepcopy(setup.backbone.module)
                scores.update(peer(module, loaders, num_workers))

            found = interleave(
                {
                    "cell": lambda: run_cell(setup) and None,
                    "peer": lambda: run_peer(peers.CLIP_NUM_WORKERS),
                    "peer without workers": lambda: run_peer(0),
                },
                rounds=size(3, 1),
            )
            assert scores["lp_acc1"] > 0.2, "the peer did not learn: it was not driven as it should"
        default = "its defaults (10 epochs, rate 0.1, batch 64, mixed precision, 4 workers)"
        return [
            compare("1", what, setup.setting, bench=found["cell"], plain=found["peer"],
                    target=target, note=f"{default}, on a CPU"),
            compare("1", f"{what}, no workers", setup.setting, bench=found["cell"],
                    plain=found["peer without workers"],
                    note="the same with its loaders' workers off, which is quicker on few cores"),
        ]  # fmt: skip

    claim(measure)


def _loaders(setup: Setup) -> list[DataLoader[tuple[torch.Tensor, int]]]:
    return [
        textbook.make_loader(
            tasks.textbook_examples(setup.backbone, setup.dataset, setup.runtime, split),
            shuffle=False,
        )
        for split in setup.splits
    ]
