"""Nights whose truth is known: how often the gate cries wolf, and how often it finds the wolf."""

from dataclasses import replace

import numpy as np
import pytest

from bench.gate import DEFAULT_LIMITS, GateSettings, Metric, Verdict, Verdicts, judge
from tests.nights import Nights, World

QUICK = GateSettings(num_replicates=200)
ANY_EFFECT = GateSettings(num_replicates=200, min_effects=dict.fromkeys(DEFAULT_LIMITS, 1e-6))


def verdicts(result: Verdicts, metric: Metric) -> list[Verdict]:
    return [row.verdict for row in result.rows if row.metric is metric]


@pytest.mark.slow
@pytest.mark.parametrize("run_spread", [0.0, 0.015])
def test_nights_without_a_change_are_hardly_ever_red(run_spread):
    """20 cells x 5 metrics; any significant effect would count, however small."""
    world = World(num_seeds=3, num_examples=300, run_spread=run_spread)
    red = 0
    for night in range(200):
        nights = Nights(world, night)
        result = judge(nights.run(), nights.run(), ANY_EFFECT)
        assert len(result.rows) == 100
        red += result.exit_code == 1
    assert red / 200 <= 0.05


def test_noisy_machines_with_a_history_are_hardly_ever_red():
    world = World(num_seeds=1, num_examples=50, run_noise=0.04)
    red = 0
    for night in range(50):
        nights = Nights(world, night)
        history = {
            (f"cell {cell}", metric): [list(np.exp(nights.rng.normal(0, 0.04, 6)))]
            for cell in range(20)
            for metric in (Metric.INFER_RATE, Metric.INFER_MEMORY)
        }
        red += judge(nights.run(), nights.run(), ANY_EFFECT, history).exit_code == 1
    assert red / 50 <= 0.06


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_a_loss_of_three_points_is_found(num_seeds):
    world = World(num_seeds=num_seeds, num_examples=2000)
    found: list[Verdict] = []
    for seed in range(5):
        nights = Nights(world, seed)
        result = judge(nights.run(), nights.run(replace(world, drop=0.03)), QUICK)
        found += verdicts(result, Metric.ACCURACY)
    assert len(found) == 100
    assert found.count(Verdict.REGRESSED) >= 95


def test_a_loss_of_a_tenth_of_a_point_is_never_a_regression():
    world = World(num_examples=2000)
    for seed in range(10):
        nights = Nights(world, seed)
        result = judge(nights.run(), nights.run(replace(world, drop=0.001)), QUICK)
        assert Verdict.REGRESSED not in verdicts(result, Metric.ACCURACY)


def cost_history(nights: Nights) -> dict[tuple[str, Metric], list[list[float]]]:
    """Six nights before."""
    costs = (Metric.INFER_RATE, Metric.INFER_MEMORY)
    runs = [nights.run() for _ in range(6)]
    return {
        (cell.cell, metric): [[float(np.median(run[place].costs[metric].runs)) for run in runs]]
        for place, cell in enumerate(runs[0])
        for metric in costs
    }


def test_a_tenth_slower_and_a_twentieth_larger_are_found():
    world = World(num_seeds=1, num_examples=50, run_noise=0.008)
    slower: list[Verdict] = []
    larger: list[Verdict] = []
    for seed in range(10):
        nights = Nights(world, seed)
        changed = replace(world, slowdown=0.10, growth=0.05)
        result = judge(nights.run(), nights.run(changed), QUICK, cost_history(nights))
        slower += verdicts(result, Metric.INFER_RATE)
        larger += verdicts(result, Metric.INFER_MEMORY)
    assert len(slower) == len(larger) == 200
    assert slower.count(Verdict.REGRESSED) >= 190
    assert larger.count(Verdict.REGRESSED) >= 190
