"""Frozen features of augmented views of a split, drawn from a seed; knows no label and no head."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bench.interfaces import Backbone, Runtime, Split
from bench.meters import Ticker
from bench.numerics import apply_plan, make_pass
from bench.record import NumericsPlan
from bench.strategies.augment import make_augmentation
from bench.strategies.evaluation import eval_batch_size
from bench.strategies.features import check_finite, encode_inputs, pass_key
from bench.strategies.inputs import load_batch
from bench.strategies.microbatch import EvalBatch

_GROUP = 64
"""Images whose views are drawn together: what is drawn depends on nothing but seed and place."""


@dataclass(frozen=True)
class Views:
    """Which views to take.

    Attributes:
        count: Per image, beside the plain one.
        augmentation: As in training.
        seed: Fixes every draw on one kind of device.
    """

    count: int
    augmentation: Literal["flip_crop", "strong"]
    seed: int


def extract_views(
    backbone: Backbone, split: Split, runtime: Runtime, plan: NumericsPlan, views: Views
) -> Tensor:
    """Return features of each view after the other, float32, on the CPU, shape (count * N, D).

    They are an artifact of the run, so that cells with other settings of the same seed share them.

    Args:
        backbone: In eval mode, without gradient, and left so.
        split: Whose images.
        runtime: Gives device and cache.
        plan: Numerics in force.
        views: Which.

    Raises:
        StrategyError: A feature is not finite, or the width is not as declared.
    """
    return torch.cat(
        [
            _one_view(backbone, split, runtime, plan, (views, number))
            for number in range(views.count)
        ]
    )


def _one_view(
    backbone: Backbone,
    split: Split,
    runtime: Runtime,
    plan: NumericsPlan,
    which: tuple[Views, int],
) -> Tensor:
    views, number = which
    key = pass_key(backbone, split, plan, runtime.device) | {
        "split": split.ids_digest,
        "augmentation": views.augmentation,
        "seed": views.seed,
        "view": number,
    }
    shape = (len(split), backbone.info.feature_dim)
    array = runtime.cache.rows("features", key, shape=shape, dtype="float32", run_bound=True)
    everything = np.arange(len(split))
    with runtime.phase("features"):
        missing = array.count_missing(everything)
        ticker = Ticker("features", missing, runtime.emit, time.monotonic)
        maker = _Maker(backbone, split, plan, views, number, runtime.device, ticker)
        array.ensure(everything, maker)
        features = torch.from_numpy(array.read(everything))
    check_finite(features, backbone, split)
    return features


@dataclass(frozen=True)
class _Maker:
    """Positions within the split, ascending -> features of one view of those images."""

    backbone: Backbone
    split: Split
    plan: NumericsPlan
    views: Views
    number: int
    device: torch.device
    ticker: Ticker

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        module = apply_plan(self.backbone.module.to(self.device), self.plan).eval()
        at_once = EvalBatch(min(_GROUP, eval_batch_size(self.device, self.plan)), self.device)
        forward = make_pass(module, self.plan, at_once.size)
        made = []
        # Whole groups, also where others have made a part of them: a draw does not depend on it.
        for group in np.unique(positions // _GROUP):
            members = np.arange(group * _GROUP, min((group + 1) * _GROUP, len(self.split)))
            features = self._encode(forward, self._draw(members, int(group)), at_once)
            wanted = np.isin(members, positions)
            made.append(features[torch.from_numpy(wanted)])
            self.ticker.add(int(wanted.sum()))
        return torch.cat(made).numpy()

    def _draw(self, members: np.ndarray, group: int) -> Tensor:
        """Return views of a group, float32 in [0, 1], shape (B, H, W, 3)."""
        sequence = np.random.SeedSequence([self.views.seed, self.number, group])
        seed = int(sequence.generate_state(1, np.uint64)[0] >> 1)
        augment = make_augmentation(self.views.augmentation, seed, self.device)
        assert augment is not None
        images = load_batch(self.split, members, self.device).float().mul_(1 / 255)
        return augment(images)

    def _encode(
        self, forward: Callable[[Tensor], Tensor], images: Tensor, at_once: EvalBatch
    ) -> Tensor:
        def run(first: int, sizes: Sequence[int]) -> Iterator[Tensor]:
            for size in sizes:
                part = images[first : first + size]
                yield encode_inputs(forward, part, self.backbone, self.plan)
                first += size

        return torch.cat(at_once.collect(len(images), run))
