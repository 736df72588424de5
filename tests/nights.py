"""Synthetic nights for the gate: runs of a grid whose true changes are known, not measurements."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from bench.gate import Cost, Measured, Metric, SeedResult
from bench.metrics import UnpackedPredictions
from bench.summary import Status

NUM_CLASSES = 10


@dataclass(frozen=True)
class World:
    """What is true of a grid.

    Attributes:
        flips: Share of examples whose prediction differs from run to run by chance.
        run_spread: Standard deviation, between runs, of the accuracy itself.
        run_noise: Standard deviation of log costs between processes.
        repeat_noise: Likewise between repeats of a process.
        drop: Points of accuracy lost by the candidate, a fraction.
        slowdown: Share of the rate that is lost.
        growth: Share by which memory grows.
    """

    num_cells: int = 20
    num_seeds: int = 3
    num_examples: int = 1000
    accuracy: float = 0.88
    flips: float = 0.03
    run_spread: float = 0.0
    run_noise: float = 0.01
    repeat_noise: float = 0.03
    num_repeats: int = 30
    drop: float = 0.0
    slowdown: float = 0.0
    growth: float = 0.0


@dataclass
class Nights:
    """Draws runs of one world from one generator; examples and base models stay the same."""

    world: World
    seed: int
    ids: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        world = self.world
        self.rng = np.random.default_rng(self.seed)
        self.ids = tuple(f"example {index}" for index in range(world.num_examples))
        self.labels = self.rng.integers(0, NUM_CLASSES, world.num_examples).astype(np.int32)
        shape = (world.num_cells, world.num_seeds, world.num_examples)
        # Seeds agree on what is hard.
        hard = self.rng.random((world.num_cells, 1, world.num_examples)) > world.accuracy
        self.right = ~(hard ^ (self.rng.random(shape) < 0.02))

    def run(self, world: World | None = None) -> tuple[Measured, ...]:
        """Return one run of every cell."""
        world = world or self.world
        return tuple(self._cell(index, world) for index in range(world.num_cells))

    def _cell(self, index: int, world: World) -> Measured:
        seeds = tuple(
            SeedResult(
                seed=seed,
                key=f"key {index} {seed}",
                status=Status.OK,
                predictions=self._predictions(self.right[index, seed], world),
                key_parts={"weights": "w"},
            )
            for seed in range(world.num_seeds)
        )
        return Measured(
            cell=f"cell {index}",
            seeds=seeds,
            device_class="cpu:Synthetic:2",
            numerics={"forward": "fp32"},
            versions={"torch": "2.11"},
            costs=self._costs(world),
        )

    def _predictions(self, right: np.ndarray, world: World) -> UnpackedPredictions:
        rng, count = self.rng, len(right)
        flipped = rng.random(count) < world.flips
        right = np.where(flipped, rng.random(count) < world.accuracy, right)
        moved = rng.normal(0, world.run_spread) - world.drop
        # So many points of all examples, of those that are right or of those that are wrong.
        share = abs(moved) / (right.mean() if moved < 0 else max(1e-9, 1 - right.mean()))
        right = np.where((right == (moved < 0)) & (rng.random(count) < share), ~right, right)
        others = (self.labels + rng.integers(1, NUM_CLASSES, count)) % NUM_CLASSES
        predicted = np.where(right, self.labels, others).astype(np.int32)
        logit = np.where(right, 2.5, -1.0) + rng.normal(0, 0.3, count)
        return UnpackedPredictions(
            split="test",
            ids=self.ids,
            labels=self.labels,
            predicted=predicted,
            true_probability=(1 / (1 + np.exp(-logit))).astype(np.float32),
            top5=predicted[:, None],
        )

    def _costs(self, world: World) -> Mapping[Metric, Cost]:
        rng = self.rng
        middle = 0.1 / (1 - world.slowdown) * np.exp(rng.normal(0, world.run_noise))
        seconds = middle * np.exp(rng.normal(0, world.repeat_noise, world.num_repeats))
        peak = 1e9 * (1 + world.growth) * np.exp(rng.normal(0, world.run_noise / 3))
        return {
            Metric.INFER_RATE: Cost(runs=(tuple(seconds.tolist()),), batch_size=64),
            Metric.INFER_MEMORY: Cost(runs=((float(peak),),)),
        }
