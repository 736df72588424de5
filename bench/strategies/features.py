"""Frozen features of a split, each example's computed once per run; knows no label and no head."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.environment import package_versions
from bench.errors import StrategyError
from bench.interfaces import Backbone, Runtime, Split
from bench.meters import Ticker
from bench.numerics import apply_plan, autocast, make_pass, plan_forward, prepare_inputs
from bench.record import NumericsPlan
from bench.strategies.buckets import evaluation_order, lengths_of, put_back
from bench.strategies.evaluation import eval_batch_size
from bench.strategies.freeze import digest_tensors
from bench.strategies.inputs import load_batch, normalise, typical_batch
from bench.strategies.microbatch import EvalBatch, with_fewer

_NAMED = 3


def plan_features(backbone: Backbone, split: Split, runtime: Runtime) -> NumericsPlan:
    """Return the numerics of the pass that computes features; timed once, then remembered.

    A split with fewer examples than a batch is repeated to fill it: the plan, and so the features,
    are the same for every number of shots.

    Args:
        backbone: Put on the runtime's device.
        split: Gives the batch that candidates are tried on.
        runtime: Gives policy, device and cache.
    """
    module = backbone.module.to(runtime.device)
    with runtime.phase("numerics"):
        count = eval_batch_size(runtime.device)
        positions = np.resize(np.arange(len(split)), count)
        inputs = typical_batch(split, positions, runtime.device, backbone.preprocessing)
        key = {"weights": backbone.info.weights_digest}
        return with_fewer(
            lambda size: plan_forward(module, inputs[:size], runtime, key=key),
            count,
            runtime.device,
        )


def extract_features(
    backbone: Backbone, split: Split, runtime: Runtime, plan: NumericsPlan | None = None
) -> Tensor:
    """Return features of a split, float32, on the CPU, shape (N, D), in the split's order.

    They are an artifact of the run: only examples that no earlier cell, seed or shot count has met
    are computed. The backbone is in eval mode, without gradient, and left so.

    Args:
        backbone: The extractor; its buffers are the same bits before and after.
        split: Which examples.
        runtime: Gives device and cache.
        plan: Numerics in force; None asks `plan_features`.

    Raises:
        StrategyError: A feature is not finite, the width is not as declared, or the backbone
            changed its buffers in eval mode.
    """
    plan = plan or plan_features(backbone, split, runtime)
    array = runtime.cache.rows(
        "features",
        pass_key(backbone, split, plan, runtime.device),
        shape=(len(split.pool), backbone.info.feature_dim),
        dtype="float32",
        run_bound=True,
    )
    with runtime.phase("features"):
        ticker = Ticker("features", array.count_missing(split.rows), runtime.emit, time.monotonic)
        array.ensure(split.rows, _maker(backbone, split, runtime, plan, ticker))
        features = torch.from_numpy(array.read(split.rows))
    check_finite(features, backbone, split)
    return features


def pass_key(
    backbone: Backbone, split: Split, plan: NumericsPlan, device: torch.device
) -> dict[str, Any]:
    """Return what names one forward pass over a pool: all that can change what it computes."""
    return {
        "backbone": backbone.info.name,
        "weights": backbone.info.weights_digest,
        "pool": split.pool.digest,
        "preprocessing": backbone.preprocessing.model_dump(mode="json"),
        "precision": plan.precision,
        "memory_format": plan.memory_format,
        "folded": plan.folded,
        "compiled": plan.compiled,
        "device": device.type,
        "packages": package_versions(),
    }


def count_constant(features: Tensor, backbone: Backbone) -> int:
    """Return how many dimensions have one value for all examples of train, shape (N, D).

    Raises:
        StrategyError: All have, although there are several examples: nothing can be learned.
    """
    constant = int((features == features[0]).all(dim=0).sum())
    if constant == features.shape[1] and len(features) > 1:
        raise StrategyError(
            f"{backbone.info.name}: all {constant} features are the same for all {len(features)} "
            "train examples, so there is nothing to learn from. Check image_size and weights."
        )
    return constant


def _maker(
    backbone: Backbone, split: Split, runtime: Runtime, plan: NumericsPlan, ticker: Ticker
) -> Callable[[np.ndarray], np.ndarray]:
    at_once = EvalBatch(eval_batch_size(runtime.device, plan), runtime.device)

    def make(rows: np.ndarray) -> np.ndarray:
        module = apply_plan(backbone.module.to(runtime.device), plan).eval()
        before = digest_tensors(dict(module.named_buffers()))
        part = replace(split, rows=rows)
        lengths = lengths_of(part)
        order = evaluation_order(len(rows), lengths)

        forward = make_pass(module, plan, at_once.size)

        def run(first: int, sizes: Sequence[int]) -> Iterator[Tensor]:
            for size in sizes:
                raw = load_batch(part, order[first : first + size].numpy(), runtime.device)
                yield encode_inputs(forward, raw, backbone, plan)
                ticker.add(size)
                first += size

        batches = at_once.collect(len(rows), run)
        after = digest_tensors(dict(module.named_buffers()))
        changed = sorted(name for name, digest in after.items() if before.get(name) != digest)
        if changed:
            raise StrategyError(
                f"{backbone.info.name} changes its buffers in eval mode ({changed[0]} and "
                f"{len(changed) - 1} more), so its features depend on the order of examples"
            )
        return put_back(torch.cat(batches), order, lengths).numpy()

    return make


@torch.inference_mode()
def encode_inputs(
    forward: Callable[[Tensor], Tensor], raw: Tensor, backbone: Backbone, plan: NumericsPlan
) -> Tensor:
    """Return features of examples, float32, on the CPU, shape (B, D).

    Args:
        forward: The pass, with the plan applied to it and in eval mode.
        raw: As `load_batch` gives them, or images in [0, 1] after augmentation, on the device.
        backbone: Whose pass it is.
        plan: Numerics in force.

    Raises:
        StrategyError: The width is not as declared.
    """
    inputs = prepare_inputs(normalise(raw, backbone.preprocessing), plan)
    with autocast(plan, raw.device):
        features = forward(inputs)
    expected = (len(raw), backbone.info.feature_dim)
    if tuple(features.shape) != expected:
        raise StrategyError(
            f"{backbone.info.name} gives features of shape {tuple(features.shape)}, expected "
            f"{expected} from its declared width"
        )
    return features.float().cpu()


def check_finite(features: Tensor, backbone: Backbone, split: Split) -> None:
    """Refuse features that are not finite, naming the first examples.

    Args:
        features: Shape (N, D).
        backbone: What made them.
        split: What they are of.

    Raises:
        StrategyError: Says how many and what to try.
    """
    broken = (~features.isfinite()).any(dim=1).nonzero().flatten().tolist()
    if broken:
        named = ", ".join(split.ids[i] for i in broken[:_NAMED])
        raise StrategyError(
            f"{backbone.info.name}: features of {len(broken)} of {len(features)} {split.name} "
            f"examples are not finite (first: {named}). Try numerics: fp32, and check the weights."
        )
