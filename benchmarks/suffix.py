"""The part of a model behind a cut, written by hand per family, and a pass up to the cut.

It shares nothing with the mechanism of `bench.strategies.prefix`, so that the bound it gives is
independent of what it bounds.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

_CONVOLUTIONAL = ("conv_head", "bn2", "global_pool")


class _ClassToken(nn.Module):
    """Tokens, shape (B, T, D) -> the first, shape (B, D)."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]


def last_modules(module: nn.Module, count: int) -> nn.Sequential:
    """Return the last stages of a timm ResNet, EfficientNet or ViT, pooled, sharing its weights.

    Args:
        module: Without classifier.
        count: Stages as bench counts them, from the output.
    """
    if hasattr(module, "layer4"):
        layers = [module.get_submodule(f"layer{number}") for number in range(5 - count, 5)]
        return nn.Sequential(*layers, module.get_submodule("global_pool"))
    blocks = list(module.get_submodule("blocks").children())[-count:]
    if hasattr(module, "conv_head"):
        return nn.Sequential(*blocks, *(module.get_submodule(name) for name in _CONVOLUTIONAL))
    return nn.Sequential(*blocks, module.get_submodule("norm"), _ClassToken())


class _CutReached(Exception):  # noqa: N818  it ends a pass and is no error
    pass


def pass_to_cut(module: nn.Module, suffix: nn.Sequential) -> Callable[[Tensor], Tensor]:
    """Return a function from inputs to what the first module of the suffix is given."""

    def forward(inputs: Tensor) -> Tensor:
        met: list[Tensor] = []

        def stop(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            met.append(arguments[0])
            raise _CutReached

        handle = suffix[0].register_forward_pre_hook(stop)
        try:
            with torch.no_grad():
                module(inputs)
        except _CutReached:
            return met[0]
        finally:
            handle.remove()
        raise AssertionError("the pass never came to the cut")

    return forward
