"""The order of examples that differ in length, so that batches carry little padding; knows no data.

Examples of one shape have no lengths here (None), and their order is left as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from bench.interfaces import SequencePool, Split

WINDOW = 50
"""Batches among which examples are sorted in training: length decides company, not when."""


def lengths_of(split: Split) -> Tensor | None:
    """Return the length of every example of a split, int64, shape (N,); None where all are alike.

    Images are alike, and so are texts or clips of one length: their batches are those of images.
    """
    if not isinstance(split.pool, SequencePool):
        return None
    lengths = torch.from_numpy(np.ascontiguousarray(split.pool.lengths[split.rows]))
    return lengths if bool((lengths != lengths[:1]).any()) else None


def evaluation_order(num_examples: int, lengths: Tensor | None) -> Tensor:
    """Return positions longest first, so that memory runs out at once or not at all.

    Args:
        num_examples: N.
        lengths: Of every example, shape (N,); None keeps the order as it is.
    """
    if lengths is None:
        return torch.arange(num_examples)
    return lengths.argsort(descending=True, stable=True)


def put_back(outputs: Tensor, order: Tensor, lengths: Tensor | None) -> Tensor:
    """Return outputs in the order of the examples; undoes `evaluation_order`.

    Args:
        outputs: Of examples in `order`, shape (N, …).
        order: As `evaluation_order` gave it.
        lengths: Likewise; None returns the outputs themselves.
    """
    if lengths is None:
        return outputs
    return outputs[order.argsort().to(outputs.device)]


def training_order(
    order: Tensor, sizes: Sequence[int], lengths: Tensor | None, generator: torch.Generator
) -> Tensor:
    """Return an epoch's order in which each batch has examples of like length.

    Within windows of 50 batches, examples are sorted and cut into batches, which are then shuffled;
    one of another size stays last.

    Args:
        order: A random order of all examples.
        sizes: Examples per batch; they sum to the length of the order.
        lengths: Of every example, shape (N,); None draws nothing and returns the order as it is.
        generator: Draws the order of the batches.
    """
    if lengths is None:
        return order
    ends = [0, *accumulate(sizes)]
    parts: list[Tensor] = []
    for first in range(0, len(sizes), WINDOW):
        own = list(sizes[first : first + WINDOW])
        window = order[ends[first] : ends[first + len(own)]]
        ranked = window[lengths[window].argsort(descending=True, stable=True)]
        batches = torch.split(ranked, own)
        whole = [batch for batch in batches if len(batch) == sizes[0]]
        rest = [batch for batch in batches if len(batch) != sizes[0]]
        shuffled = torch.randperm(len(whole), generator=generator).tolist()
        parts += [*(whole[place] for place in shuffled), *rest]
    return torch.cat(parts)
