"""`knn`: the nearest train examples vote by cosine similarity; knows no search."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, ClassVar

from pydantic import PositiveFloat, PositiveInt

from bench.interfaces import Adapted, Task
from bench.spec import Grid, StrategySpec, grid_values

if TYPE_CHECKING:
    from torch import Tensor

    from bench.strategies.frozen import Choice, FrozenFeatures
    from bench.strategies.neighbours import Neighbours

_EVEN_SCALE = 1.0
"""Without val and with one example of a class, the shares of the votes stand as probabilities."""


class KnnSpec(StrategySpec):
    """Fields of `knn`. One value of each needs no val.

    Attributes:
        k: Neighbours that vote; all of train where it has fewer.
        temperature: A neighbour of cosine similarity s has the weight exp(s / temperature): small
            ones listen to the nearest alone, large ones to all alike.
    """

    model_config = StrategySpec.model_config | {"extra": "forbid"}

    name: str = "knn"
    k: PositiveInt | Grid[PositiveInt] = (1, 2, 5, 10, 20, 50, 100, 200)
    temperature: PositiveFloat | Grid[PositiveFloat] = (0.02, 0.07, 0.2)


class Knn:
    """Classify by the nearest train examples in the space of frozen features.

    Probabilities are the shares of the votes, with one even vote more so that none is zero, their
    logarithms scaled by a factor fitted on val. Without val it is fitted on train, each example by
    the votes of all others; it is 1 where a class has a single example.

    Source: Wu et al., 2018, section 3.4; k and temperature as in Caron et al., 2021 (DINO), whose
    k of 10 to 200 and temperature of 0.07 the grid holds.
    """

    Spec: ClassVar[type[StrategySpec]] = KnnSpec
    version: ClassVar[int] = 1
    summary: ClassVar[str] = (
        "nothing trains: the nearest train examples vote by cosine similarity; one forward pass, "
        "each prediction searches all of train; how good are the features as they are?"
    )
    trains_backbone: ClassVar[bool] = False

    def needs_val(self, spec: StrategySpec) -> bool:
        """Return True for several values of k or temperature."""
        return len(spec.grid_points()) > 1

    def adapt(self, task: Task, spec: StrategySpec) -> Adapted:
        """Return the vote with the k and temperature that val chose; see `Strategy.adapt`."""
        import torch.nn.functional as F

        from bench.strategies.frozen import FittedHead, adapt_head, load_frozen
        from bench.strategies.neighbours import NeighbourHead

        assert isinstance(spec, KnnSpec)
        frozen = load_frozen(task)
        train = frozen.train
        with task.runtime.phase("fit"):
            keys = F.normalize(train.features, dim=1)
            settings, choice = _choose(frozen, keys, spec)
        k, temperature = settings[choice.index]
        head = NeighbourHead(keys, train.labels, task.num_classes, k=k, temperature=temperature)
        head.scale = choice.scale
        notes = (f"predictions search {len(keys)} stored train features", *choice.notes)
        if k > len(keys):
            notes = (*notes, f"k = {k} is all {len(keys)} train examples")
        return adapt_head(task, frozen, FittedHead(head, 0, choice.selection, notes))


def _choose(
    frozen: FrozenFeatures, keys: Tensor, spec: KnnSpec
) -> tuple[list[tuple[int, float]], Choice]:
    from bench.strategies.frozen import choose_on_val, take_only
    from bench.strategies.neighbours import count_votes, find_neighbours

    points = list(product(grid_values(spec.k), grid_values(spec.temperature)))
    settings = [{"k": k, "temperature": temperature} for k, temperature in points]
    most, labels = max(k for k, _ in points), frozen.train.labels

    def votes(near: Neighbours, index: int) -> Tensor:
        return count_votes(near, *points[index], frozen.num_classes)

    if frozen.val is None:

        def held_out() -> Tensor:
            most_others = min(most, len(keys) - 1)
            near = find_neighbours(keys, keys, labels, most_others, leave_out=True)
            return votes(near, 0)

        return points, take_only(settings, frozen, held_out, _EVEN_SCALE)
    near = find_neighbours(frozen.val.features, keys, labels, most)
    bounds = {"k": (1.0, float(len(keys)))}
    return points, choose_on_val(
        settings, lambda index: votes(near, index), frozen.val.labels, bounds
    )
