"""What runs a module's pass under a plan: as it is, folded, or compiled; chooses no numerics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.numerics.applied import apply_plan
from bench.numerics.compiling import CompiledPass, Pass
from bench.numerics.folding import fold_batch_norms
from bench.record import NumericsPlan


def make_pass(module: nn.Module, plan: NumericsPlan, batch_size: int | None = None) -> Pass:
    """Return what runs a module's pass under a plan: the module itself where the plan is plain.

    A folded pass runs on a copy of the weights as they are at its first call: make a new one when
    they have changed. For compiled ones see `CompiledPass`.

    Args:
        module: Inputs -> features or logits, with the plan applied to it.
        plan: In force in the pass.
        batch_size: Examples that a graph is compiled for; None takes those of the first batch.
    """
    if plan.folded:
        return _FoldedPass(module, plan, batch_size)
    return CompiledPass(module, plan, batch_size) if plan.compiled else module


class _FoldedPass:
    """A pass on a copy of a module in which batch norms are folded, made at the first call."""

    def __init__(self, module: nn.Module, plan: NumericsPlan, batch_size: int | None) -> None:
        self._module = module
        self._plan = plan
        self._batch_size = batch_size
        self._run: Pass | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return what the module returns for the inputs, up to rounding, shape (B, ...)."""
        if self._run is None:
            self._run = self._fold(inputs[:1])
        return self._run(inputs)

    def _fold(self, example: Tensor) -> Any:
        # Parameters made in inference mode could not be told to take no gradient.
        with torch.inference_mode(False):
            folded = fold_batch_norms(self._module, example.clone())
        if folded is None:
            return self._module
        plan = self._plan.model_copy(update={"folded": False})
        return make_pass(apply_plan(folded, plan), plan, self._batch_size)
