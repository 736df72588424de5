"""Claim 4: `full` against the textbook loop, and against a bare loop on tensors in memory.

Run: ``pytest benchmarks/bench_full.py``, about 3 minutes.
"""

from __future__ import annotations

import pytest

from bench.strategies.full import Full, FullSpec
from benchmarks import tasks, textbook, training
from benchmarks.measure import Timing, interleave, size
from benchmarks.results import Row, at_least, compare

_SIZE = 96
_EXAMPLES = size(640, 80)
_PART = size(256, 64)
_NAMES = [spec.name.partition("/")[2] for spec in tasks.BACKBONES]


@pytest.mark.parametrize("backbone", tasks.BACKBONES, ids=_NAMES)
def test_full_keeps_up_with_a_bare_loop(claim, backbone) -> None:  # type: ignore[no-untyped-def]
    def measure() -> list[Row]:
        with tasks.temporary_runtime() as runtime:
            setup = training.set_up(backbone, _SIZE, _EXAMPLES, runtime)
            spec = FullSpec(epochs=1, batch_size=training.BATCH_SIZE, learning_rate=1e-3)
            warm = training.adapt(setup, Full(), spec, with_val=False)
            plan = warm.adapted.effective.train
            assert plan is not None
            bare = training.bare_loop(setup, plan, spec)
            bare.run(1)
            ours = training.timed_phase(
                lambda: training.adapt(setup, Full(), spec, with_val=False), "train"
            )
            ways = {"bench": ours, "bare": lambda: bare.run(1), "textbook": _textbook(setup)}
            found = interleave(ways, rounds=size(5, 1))
        setting = f"{setup.name}, {len(setup.data.train)} images, {plan.precision}"
        return [
            compare(
                "4",
                "full: images/s over those of a bare loop in memory",
                setting,
                bench=found["bench"],
                plain=found["bare"],
                target=at_least(0.97),
            ),
            compare(
                "4",
                "full: images/s over those of the textbook loop",
                setting,
                bench=found["bench"],
                plain=found["textbook"],
                target=at_least(1.9),
                note=f"textbook: an epoch of {_PART} images, extrapolated",
            ),
        ]

    claim(measure)


def _textbook(setup: training.Setup):  # type: ignore[no-untyped-def]
    """Return one textbook epoch over train, scaled from a part of it; nothing is evaluated."""
    split = tasks.part_of(setup.data.train, _PART)
    examples = tasks.textbook_examples(setup.backbone, setup.dataset, setup.runtime, split)

    def run() -> Timing:
        model = tasks.textbook_model(setup.backbone, setup.num_classes)
        rates = textbook.measure_rates(model, examples, trained=None)
        return rates.loop((len(setup.data.train), 0, 0), epochs=1)

    return run
