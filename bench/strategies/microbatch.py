"""How many examples go through a model at once, fewer after memory ran out; knows no loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bench.meters import is_out_of_memory, release_unused
from bench.strategies.feed import batch_sizes

T = TypeVar("T")


def with_fewer(
    attempt: Callable[[int], T], size: int, device: torch.device, *, floor: int = 1
) -> T:
    """Return what an attempt gives at the first of size, size/2, … for which there is memory.

    Args:
        attempt: Takes the number of examples at once; called again from its beginning.
        size: Examples at once, to begin with.
        device: Whose free memory is given back between attempts.
        floor: The least that is tried; there the error is raised as it came.
    """
    while True:
        try:
            return attempt(size)
        except (RuntimeError, MemoryError) as error:
            if size <= floor or not is_out_of_memory(error):
                raise
        # Not in the handler: as long as there is the exception, its traceback holds the frames of
        # the failed attempt with their tensors.
        release_unused(device)
        size = max(floor, size // 2)


def smallest_pass(module: nn.Module) -> int:
    """Return the least examples that a module can train on at once: 2 with batch statistics.

    Those of a single example do not exist where a map is 1 x 1, and say nothing elsewhere.

    Args:
        module: In the modes it trains in.
    """
    return 2 if _has_batch_statistics(module) else 1


def describe_accumulation(module: nn.Module, at_once: int, batch_size: int) -> str:
    """Return what the record says of steps that take their batch in parts, and what that changes.

    Args:
        module: In the modes it trains in.
        at_once: Examples per forward and backward pass.
        batch_size: Examples per update.
    """
    note = (
        f"memory ran out: each step of {batch_size} examples accumulates the gradients of passes "
        f"over {at_once}"
    )
    if _has_batch_statistics(module):
        note += f", and batch norm takes its statistics from {at_once} in place of {batch_size}"
    return note


def _has_batch_statistics(module: nn.Module) -> bool:
    return any(isinstance(part, _BatchNorm) and part.training for part in module.modules())


class EvalBatch:
    """Examples per forward pass where batches do not change results: the most that fits.

    It is halved when memory runs out and stays so for all who share the object.

    Args:
        size: Examples at once, to begin with.
        device: Where the model is.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.size = size
        self._device = device

    def collect(
        self, num_examples: int, run: Callable[[int, Sequence[int]], Iterable[Tensor]]
    ) -> list[Tensor]:
        """Return the outputs of consecutive batches over all examples.

        Batches that came through before memory ran out are not run again.

        Args:
            num_examples: Of the whole pass.
            run: First position and sizes of the batches from there on -> one output per batch, its
                first dimension the batch's size.
        """
        outputs: list[Tensor] = []
        done = 0
        begin = min(self.size, max(1, num_examples))

        def go_on(size: int) -> None:
            nonlocal done
            if size < begin:
                self.size = size
            for output in run(done, batch_sizes(num_examples - done, size)):
                outputs.append(output)
                done += len(output)

        with_fewer(go_on, begin, self._device)
        return outputs
