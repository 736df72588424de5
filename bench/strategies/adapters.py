"""Low-rank adapters in a backbone's layers: which, added, merged away, put back; knows no loop."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from bench.errors import StrategyError

_ATTENTION = ("attn", "attention")
_ADAPTER = ".lora_"


class Adapters:
    """The adapters of one module, either in place (it trains) or merged away (it is deployed).

    Args:
        module: The backbone; changed in place.
        targets: Paths of the layers that get one.
        rank: Of each adapter.
        alpha: Its output is scaled by alpha / rank.

    Raises:
        StrategyError: The package peft is not installed.

    Source: Hu et al., 2022, LoRA, section 4.1; for convolutions as peft has it, a convolution of
    `rank` channels and one of 1 x 1.
    """

    def __init__(
        self, module: nn.Module, targets: tuple[str, ...], rank: int, alpha: float
    ) -> None:
        LoraConfig, inject_adapter_in_model = import_peft()  # noqa: N806 - a class
        transposed = any(_is_transposed(module.get_submodule(path)) for path in targets)
        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            # As a list, a path would also stand for every longer one that ends with it.
            target_modules="|".join(map(re.escape, targets)),
            fan_in_fan_out=transposed,
        )
        inject_adapter_in_model(config, module)
        self._module = module
        self._layers: dict[str, Any] = {path: module.get_submodule(path) for path in targets}

    def parameters(self) -> tuple[str, ...]:
        """Return the names of the adapters' parameters in the module, while they are in place."""
        return tuple(name for name, _ in self._module.named_parameters() if _ADAPTER in name)

    def merge(self) -> None:
        """Add every adapter to its layer's weights and leave the plain layers in the module."""
        for path, layer in self._layers.items():
            layer.merge()
            self._module.set_submodule(path, layer.get_base_layer())

    def put_back(self) -> None:
        """Undo `merge`, up to rounding in the layers' weights; nothing where it was not called."""
        for path, layer in self._layers.items():
            if layer.merged:
                layer.unmerge()
                self._module.set_submodule(path, layer)


def import_peft() -> tuple[Any, Any]:
    """Return what is used of peft: the class of its settings, and what adds adapters to a module.

    Raises:
        StrategyError: It is not installed, or does not import.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise StrategyError(
            f"lora: the package peft does not import ({error}). Install it with: "
            "pip install 'transfer-bench[peft]'."
        ) from error
    return LoraConfig, inject_adapter_in_model


def find_targets(module: nn.Module, run: Callable[[], object]) -> tuple[str, ...]:
    """Return the paths of the layers that get an adapter, in order; none where none qualifies.

    The linear layers of attention where there are any (vision and text transformers), else every
    linear layer and every convolution that is not grouped. Only layers that a pass calls count:
    some models use a layer's weights without calling it, and an adapter there would do nothing.

    Args:
        module: The backbone, in eval mode.
        run: Makes one pass over some example.
    """
    called = _called_in(module, run)
    layers = [(path, part) for path, part in module.named_modules() if part in called]
    attention = tuple(path for path, part in layers if _is_linear(part) and _is_in_attention(path))
    if attention:
        return attention
    return tuple(path for path, part in layers if _is_linear(part) or _is_plain_conv(part))


@torch.no_grad()
def _called_in(module: nn.Module, run: Callable[[], object]) -> set[nn.Module]:
    called: set[nn.Module] = set()
    layers = [part for part in module.modules() if _is_linear(part) or _is_plain_conv(part)]
    hooks = [part.register_forward_pre_hook(lambda part, _: called.add(part)) for part in layers]
    try:
        run()
    finally:
        _remove(hooks)
    return called


def _remove(hooks: Iterable[Any]) -> None:
    for hook in hooks:
        hook.remove()


def _is_in_attention(path: str) -> bool:
    return any(word in path.lower() for word in _ATTENTION)


def _is_linear(part: nn.Module) -> bool:
    return isinstance(part, nn.Linear) or _is_transposed(part)


def _is_transposed(part: nn.Module) -> bool:
    """Return whether it is transformers' linear layer whose weight is (in, out), as in GPT-2."""
    return type(part).__name__ == "Conv1D" and not isinstance(part, nn.Conv1d)


def _is_plain_conv(part: nn.Module) -> bool:
    return isinstance(part, nn.Conv1d | nn.Conv2d) and part.groups == 1
