"""Rows of several lengths in one batch, and models that padding leaks into; knows no modality."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

_LEAK = 1e-3


def run_by_length(rows: Tensor, present: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
    """Return what a model gives for rows of a batch, those of each length without any padding.

    Args:
        rows: Padded at the end, shape (B, L).
        present: What is no padding, shape (B, L).
        run: Takes rows of one length (b, l), gives (b, D).

    Returns:
        Shape (B, D), in the order of the rows.
    """
    values, groups = torch.unique(present.sum(1), return_inverse=True)
    places = [(groups == group).nonzero()[:, 0] for group in range(len(values))]
    pairs = zip(values.tolist(), places, strict=True)
    parts = [run(rows[chosen, :length]) for length, chosen in pairs]
    return torch.cat(parts)[torch.cat(places).argsort()]


@torch.inference_mode()
def padding_leaks(module: nn.Module, rows: Sequence[Tensor], padding: float) -> bool:
    """Return whether a row has other features in a padded batch than it has alone.

    Args:
        module: In eval mode; takes rows (B, L), gives features (B, D).
        rows: Of different lengths.
        padding: What stands behind the end of a row in a batch.
    """
    padded = nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=padding)
    together: Tensor = module(padded)
    alone = torch.cat([module(row[None]) for row in rows])
    # Written so that a difference which is not a number counts as a leak.
    return not bool((together - alone).abs().max() <= _LEAK * alone.abs().max())
