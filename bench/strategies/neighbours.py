"""Nearest train examples by cosine similarity, and their votes; knows no split and no strategy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MAX_ELEMENTS = 1 << 23


@dataclass(frozen=True)
class Neighbours:
    """The nearest train examples of N queries, nearest first, both of shape (N, M).

    Attributes:
        similarity: Cosine, in [-1, 1]; minus infinity where there is no such neighbour.
        labels: Their classes, int64.
    """

    similarity: Tensor
    labels: Tensor


def find_neighbours(
    queries: Tensor, keys: Tensor, labels: Tensor, most: int, *, leave_out: bool = False
) -> Neighbours:
    """Return the nearest keys of each query; of equal similarity, the earlier key is nearer.

    Args:
        queries: Features, shape (N, D).
        keys: Features of train, shape (M, D), of unit length.
        labels: Of train, int64, shape (M,).
        most: How many; fewer where there are fewer keys.
        leave_out: Queries are the keys in their order, and none is its own neighbour.
    """
    most = min(most, len(keys))
    rows = max(1, _MAX_ELEMENTS // len(keys))
    found, first = [], 0
    for part in torch.split(queries, rows):
        similarity = F.normalize(part, dim=1) @ keys.T
        if leave_out:
            own = torch.arange(len(part), device=part.device)
            similarity[own, own + first] = -torch.inf
        found.append(_nearest(similarity, most))
        first += len(part)
    index = torch.cat([part[1] for part in found])
    return Neighbours(torch.cat([part[0] for part in found]), labels[index])


def _nearest(similarity: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return the highest similarities and their columns, ties in the order of the columns."""
    value, index = similarity.topk(most, dim=1)
    # Which of several equal ones `topk` takes at the end, and in what order, it does not say.
    last = value[:, -1:]
    open_rows = ((similarity >= last).sum(1) > most).nonzero()[:, 0]
    if len(open_rows):
        order = similarity[open_rows].sort(dim=1, descending=True, stable=True).indices
        index[open_rows] = order[:, :most]
    index = index.sort(dim=1).values
    value, order = similarity.gather(1, index).sort(dim=1, descending=True, stable=True)
    return value, index.gather(1, order)


def count_votes(neighbours: Neighbours, k: int, temperature: float, num_classes: int) -> Tensor:
    """Return log shares of the votes of the k nearest, shape (N, K).

    A neighbour of similarity s votes for its class with weight exp(s / temperature). Beside the k,
    one more voter spreads its vote evenly over all classes: no share is zero.

    Source: Wu et al., 2018, section 3.4 (weights); the even vote is Laplace's rule of succession.
    """
    near = neighbours.similarity[:, :k]
    weight = ((near - near[:, :1]) / temperature).exp()
    weight = weight / weight.sum(1, keepdim=True)
    shares = weight.new_zeros((len(near), num_classes))
    shares.scatter_add_(1, neighbours.labels[:, :k], weight)
    taken = near.shape[1]
    return ((taken * shares + 1 / num_classes) / (taken + 1)).log()


class NeighbourHead(nn.Module):
    """Features, shape (B, D) -> logits, shape (B, K), by the votes of stored train features.

    Args:
        keys: Train features of unit length, shape (M, D).
        labels: Their classes, int64, shape (M,).
        num_classes: K.
        k: Neighbours that vote.
        temperature: See `count_votes`.
        scale: Times log shares, for calibration.
    """

    def __init__(
        self, keys: Tensor, labels: Tensor, num_classes: int, *, k: int, temperature: float
    ) -> None:
        super().__init__()
        self.register_buffer("keys", keys)
        self.register_buffer("labels", labels)
        self.num_classes = num_classes
        self.k = k
        self.temperature = temperature
        self.scale = 1.0

    @property
    def cost(self) -> str:
        """What decides the cost, beside the stored features."""
        return f"k={min(self.k, len(self.get_buffer('keys')))}"

    def forward(self, features: Tensor) -> Tensor:
        """Return calibrated log shares."""
        keys, labels = self.get_buffer("keys"), self.get_buffer("labels")
        near = find_neighbours(features, keys, labels, self.k)
        return self.scale * count_votes(near, self.k, self.temperature, self.num_classes)
