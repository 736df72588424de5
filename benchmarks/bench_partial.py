"""Claim 3: `partial` from cached activations at the cut, against the bound and the plain path.

Run: ``pytest benchmarks/bench_partial.py``, about 5 minutes. The bound comes from bare loops: one
pass to the cut over train, then epochs of the suffix alone on activations in memory.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch

from bench.numerics import apply_plan, autocast, prepare_inputs
from bench.record import NumericsPlan
from bench.spec import Numerics
from bench.strategies.partial import Partial, PartialSpec
from benchmarks import paths, tasks, textbook, training
from benchmarks.measure import Timing, interleave, size, timed
from benchmarks.results import Row, at_least, at_most, compare
from benchmarks.suffix import last_modules, pass_to_cut

_SIZE = 96
_EXAMPLES = size(640, 80)
_EPOCHS = size(10, 2)
_PLAIN_EPOCHS = 2
_PART = size(256, 64)
_ROUNDS = size(3, 1)
_NAMES = [spec.name.partition("/")[2] for spec in tasks.BACKBONES]


def spec_of(stages: int, epochs: int) -> PartialSpec:
    return PartialSpec(trainable_stages=stages, epochs=epochs, batch_size=training.BATCH_SIZE)


def takes_cache(done: training.Adaptation) -> bool:
    """Return whether a training ran from activations: the record's notes say when it did not."""
    notes = done.adapted.effective.notes
    return not any(note.startswith("frozen prefix run in every epoch") for note in notes)


def work_of(done: training.Adaptation) -> Timing:
    """Return what an adaptation took beyond choosing numerics and decoding, which are apart."""
    wall = done.timing.wall_seconds
    # Looking for a cut and then refusing it is no part of what the plain path costs.
    phases = ("numerics", "decode") if takes_cache(done) else ("numerics", "decode", "prefix")
    apart = sum(done.seconds.get(phase, 0.0) for phase in phases)
    return done.timing.scaled((wall - apart) / wall)


@dataclass(frozen=True)
class Bare:
    """Bare loops around the cut.

    Attributes:
        prefix: One pass over train, images to activations.
        epoch: One epoch of the suffix on them.
    """

    setup: training.Setup
    stages: int
    plan: NumericsPlan

    def run(self) -> Timing:
        """Return a prefix pass and an epoch, scaled to all epochs."""
        module = apply_plan(copy.deepcopy(self.setup.backbone.module), self.plan).eval()
        suffix = last_modules(module, self.stages)
        to_cut = pass_to_cut(module, suffix)
        inputs = training.normalised(self.setup, self.setup.data.train)
        parts: list[torch.Tensor] = []

        def prefix() -> None:
            with autocast(self.plan, inputs.device):
                for batch in inputs.split(training.BATCH_SIZE):
                    parts.append(to_cut(prepare_inputs(batch, self.plan)).float())

        once = timed(prefix)
        module.requires_grad_(False)
        suffix.requires_grad_(True).train()
        head = training.BareModel(
            suffix, self.setup.backbone.info.feature_dim, self.setup.num_classes
        )
        labels = torch.from_numpy(self.setup.data.train.labels)
        setting = spec_of(self.stages, _EPOCHS)
        loop = training.BareLoop(head, torch.cat(parts), labels, self.plan, setting)
        return once + timed(lambda: loop.run(_EPOCHS))


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("backbone", tasks.BACKBONES, ids=_NAMES)
def test_partial_reaches_its_bound(claim, backbone, stages) -> None:  # type: ignore[no-untyped-def]
    def measure() -> list[Row]:
        with tasks.temporary_runtime() as runtime:
            setup = training.set_up(backbone, _SIZE, _EXAMPLES, runtime)

            def cached() -> Timing:
                return work_of(_adapt(setup, stages, _EPOCHS))

            def plain() -> Timing:
                with paths.plain():
                    done = _adapt(setup, stages, _PLAIN_EPOCHS)
                return work_of(done).scaled(_EPOCHS / _PLAIN_EPOCHS)

            with paths.plain():
                _adapt(setup, stages, 1)
            plan = _adapt(setup, stages, 1).adapted.effective.train
            assert plan is not None
            bare = Bare(setup, stages, plan)
            found = interleave({"cached": cached, "plain": plain, "bare": bare.run}, rounds=_ROUNDS)
        setting = f"{setup.name}, last {stages}, {len(setup.data.train)} images, {plan.precision}"
        note = f"plain: {_PLAIN_EPOCHS} epochs, extrapolated to {_EPOCHS}"
        return [
            compare(
                "3",
                "partial, 10 epochs: share of the suffix bound",
                setting,
                bench=found["cached"],
                plain=found["bare"],
                target=at_least(0.85),
            ),
            compare(
                "3",
                "partial, 10 epochs: against bench's plain path",
                setting,
                bench=found["cached"],
                plain=found["plain"],
                note=note,
            ),
        ]

    claim(measure)


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("backbone", tasks.BACKBONES, ids=_NAMES)
def test_cached_and_plain_curves_agree(claim, backbone, stages) -> None:  # type: ignore[no-untyped-def]
    def measure() -> list[Row]:
        with tasks.temporary_runtime(Numerics.FP32) as runtime:
            setup = training.set_up(backbone, 64, size(200, 80), runtime)
            cached = _adapt(setup, stages, 3).adapted.curve
            with paths.plain():
                plain = _adapt(setup, stages, 3).adapted.curve
        pairs = zip(cached, plain, strict=True)
        apart = max(abs(a.train_loss - b.train_loss) / b.train_loss for a, b in pairs)
        what = "partial, fp32: loss curves of cached and plain path apart"
        setting = f"{setup.name}, last {stages}, 3 epochs"
        return [Row("3", what, setting, apart, at_most(1e-4), unit="relative")]

    rows = claim(measure)
    assert rows[0].met, rows[0].label


def test_partial_beats_the_textbook_loop(claim) -> None:  # type: ignore[no-untyped-def]
    def measure() -> list[Row]:
        with tasks.temporary_runtime() as runtime:
            setup = training.set_up(tasks.LITE0, _SIZE, _EXAMPLES, runtime)
            split = tasks.part_of(setup.data.train, _PART)
            examples = tasks.textbook_examples(setup.backbone, setup.dataset, runtime, split)
            trained = setup.backbone.stages[-1].modules

            def plain() -> Timing:
                model = tasks.textbook_model(setup.backbone, setup.num_classes)
                rates = textbook.measure_rates(model, examples, trained)
                return rates.loop((len(setup.data.train), 0, 0), _EPOCHS)

            _adapt(setup, 1, 1)
            found = interleave(
                {"bench": lambda: work_of(_adapt(setup, 1, _EPOCHS)), "textbook": plain},
                rounds=_ROUNDS,
            )
        row = compare(
            "3",
            "partial, 10 epochs: against the textbook loop",
            f"{setup.name}, last 1, {len(setup.data.train)} images",
            bench=found["bench"],
            plain=found["textbook"],
            target=at_least(4),
            note=f"textbook: an epoch of {_PART} images, extrapolated",
        )
        return [row]

    claim(measure)


def _adapt(setup: training.Setup, stages: int, epochs: int) -> training.Adaptation:
    """Adapt on the path that is asked for, and make sure that it was the one taken."""
    done = training.adapt(setup, Partial(), spec_of(stages, epochs), with_val=False)
    assert takes_cache(done) is not paths.is_plain(), done.adapted.effective.notes
    return done
