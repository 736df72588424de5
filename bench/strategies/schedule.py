"""Learning rates over steps and the optimiser of a setting; it knows no data and no loss."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from bench.spec import TrainingSpec

T = TypeVar("T", int, float)


def fixed(value: T | tuple[T, ...]) -> T:
    """Return the value of a field of one grid point.

    Raises:
        TypeError: It is still a grid: `StrategySpec.grid_points` was not called.
    """
    if isinstance(value, tuple):
        raise TypeError(f"a grid of values where one is due: {value}")
    return value


def rate_factor(step: int, num_steps: int, setting: TrainingSpec) -> float:
    """Return the share of the peak learning rate at a step, in [0, 1].

    The warm-up rises linearly and reaches the peak at its last step; the cosine then falls to zero
    at the step after the last, so that no step is lost at a rate of zero.

    Args:
        step: Counts from 0, below `num_steps`.
        num_steps: Steps of the whole training.
        setting: Gives `warmup_fraction` and `schedule`.

    Source: Goyal et al., 2017, section 2.2 (warm-up); Loshchilov & Hutter, 2017 (cosine).
    """
    warmup = round(setting.warmup_fraction * num_steps)
    if step < warmup:
        return (step + 1) / warmup
    if setting.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (num_steps - warmup)))


def make_optimizer(
    parameters: Iterable[nn.Parameter],
    setting: TrainingSpec,
    rate_factors: Mapping[nn.Parameter, float] | None = None,
) -> torch.optim.Optimizer:
    """Return AdamW or SGD in its fused form, with no decay on biases, norms and other vectors.

    Args:
        parameters: Those to train; one of fewer than two dimensions is not decayed.
        setting: One point of the grid.
        rate_factors: Share of the learning rate of those that do not get all of it, kept as
            ``rate_factor`` of their group; `set_rate` honours it.

    Source: Loshchilov & Hutter, 2019 (decoupled decay); He et al., 2019, section 3.1 (no decay on
    biases and norms).
    """
    rate = fixed(setting.learning_rate)
    factors = rate_factors or {}
    members: dict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
    for parameter in parameters:
        members[factors.get(parameter, 1.0), parameter.ndim > 1].append(parameter)
    groups: list[dict[str, Any]] = [
        {
            "params": group,
            "weight_decay": fixed(setting.weight_decay) if is_decayed else 0.0,
            "lr": rate * factor,
            "rate_factor": factor,
        }
        for (factor, is_decayed), group in members.items()
    ]
    if setting.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=setting.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=rate, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the next update, of each group its share of it.

    Args:
        optimizer: From `make_optimizer`.
        rate: Of the parameters that get all of it.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"]
