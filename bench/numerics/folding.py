"""Batch norms folded into the convolutions before them, on a copy; knows no plan and no timing.

In eval mode a batch norm is an affine map per channel, and so is the end of a convolution: one pass
over the activations can do both, which on a CPU is a good part of a forward pass. The result is the
same function up to rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norms(module: nn.Module, example: Tensor) -> nn.Module | None:
    """Return a copy in eval mode without the batch norms that follow a convolution, or None.

    Pairs are those that met in a pass over the example: the very output of a convolution was the
    input of a batch norm, and both ran once. That nothing else reads that output is not seen here:
    the caller compares results.

    Args:
        module: In any mode; left as it is.
        example: Inputs of one pass, shape (1, ...), on the module's device.

    Returns:
        None where nothing can be folded, or the pass changes buffers in eval mode.

    Source: Jacob et al., 2018, section 3.2 (folding).
    """
    folded = copy.deepcopy(module).eval()
    buffers = {name: value.clone() for name, value in folded.named_buffers()}
    pairs = _find_pairs(folded, example)
    if any(not torch.equal(value, buffers[name]) for name, value in folded.named_buffers()):
        # Whoever asked shall see that on the module itself.
        return None
    for conv_path, norm_path in pairs.items():
        conv, norm = folded.get_submodule(conv_path), folded.get_submodule(norm_path)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        folded.set_submodule(conv_path, fuse_conv_bn_eval(conv, norm))
        folded.set_submodule(norm_path, _rest_of(norm))
    return folded.requires_grad_(False) if pairs else None


def _rest_of(norm: nn.BatchNorm2d) -> nn.Module:
    """Return what a norm does beside normalising: timm's has its activation in it."""
    if type(norm) is nn.BatchNorm2d:
        return nn.Identity()
    return nn.Sequential(*(part for part in norm.children() if not isinstance(part, nn.Identity)))


def _can_fold(conv: nn.Module, norm: nn.Module) -> bool:
    # By name: timm's class is a batch norm followed by its children, drop and act.
    known = type(norm) is nn.BatchNorm2d or type(norm).__name__ == "BatchNormAct2d"
    return (
        isinstance(conv, nn.Conv2d)
        and isinstance(norm, nn.BatchNorm2d)
        and known
        and norm.running_mean is not None
        and norm.weight is not None
    )


def _find_pairs(module: nn.Module, example: Tensor) -> Mapping[str, str]:
    """Return paths, convolution -> the batch norm that reads its output."""
    names = {part: name for name, part in module.named_modules() if name}
    calls: dict[str, int] = {}
    # Outputs are kept, so that no two of them have one identity.
    made: dict[int, tuple[nn.Module, Any]] = {}
    pairs: dict[str, str] = {}

    def before(part: nn.Module, inputs: tuple[Any, ...]) -> None:
        calls[names[part]] = calls.get(names[part], 0) + 1
        maker = made.get(id(inputs[0]), (None, None))[0] if inputs else None
        if maker is not None and _can_fold(maker, part):
            pairs[names[maker]] = names[part]

    def after(part: nn.Module, _: Any, output: Any) -> None:
        made[id(output)] = (part, output)

    parts = [part for part in names if isinstance(part, nn.Conv2d | nn.BatchNorm2d)]
    with _hooked(parts, before, after), torch.no_grad():
        module(example)
    return {c: n for c, n in pairs.items() if calls[c] == 1 and calls[n] == 1}


@contextmanager
def _hooked(parts: Sequence[nn.Module], before: Any, after: Any) -> Iterator[None]:
    hooks = [part.register_forward_pre_hook(before) for part in parts]
    hooks += [part.register_forward_hook(after) for part in parts]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
