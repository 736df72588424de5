"""`nearest_centroid`: each class is the mean of its train features; knows no arithmetic."""

from __future__ import annotations

from typing import ClassVar, Literal

from bench.interfaces import Adapted, Task
from bench.spec import Grid, StrategySpec, grid_values

_SCALES = {"cosine": 10.0, "euclidean": 5.0}
"""Of the scores where neither val nor train can say it: one example of a class and no val."""


class NearestCentroidSpec(StrategySpec):
    """Fields of `nearest_centroid`.

    Attributes:
        metric: What nearest means: the largest cosine between features and class mean, or the
            smallest distance; several are chosen from on val, one needs no val.
    """

    model_config = StrategySpec.model_config | {"extra": "forbid"}

    name: str = "nearest_centroid"
    metric: Literal["cosine", "euclidean"] | Grid[Literal["cosine", "euclidean"]] = (
        "cosine",
        "euclidean",
    )


class NearestCentroid:
    """Classify by the nearest class mean in the space of frozen features.

    Probabilities are a softmax of scaled cosines or negative squared distances. The scale is fitted
    on val; without val on train, each example left out of its own class's mean. Where a class has a
    single example it is 10 for cosines, and 5 for squared distances in units of the mean one
    between two class means.

    Source: Snell et al., 2017, section 2, with the backbone frozen.
    """

    Spec: ClassVar[type[StrategySpec]] = NearestCentroidSpec
    version: ClassVar[int] = 1
    summary: ClassVar[str] = (
        "nothing trains but one mean per class; one forward pass and no solving; the floor for a "
        "handful of examples per class"
    )
    trains_backbone: ClassVar[bool] = False

    def needs_val(self, spec: StrategySpec) -> bool:
        """Return True for several metrics."""
        return len(spec.grid_points()) > 1

    def adapt(self, task: Task, spec: StrategySpec) -> Adapted:
        """Return the class means under the metric that val chose; see `Strategy.adapt`."""
        from bench.strategies.centroids import measure_centroids
        from bench.strategies.frozen import (
            FittedHead,
            adapt_head,
            choose_on_val,
            load_frozen,
            take_only,
        )

        assert isinstance(spec, NearestCentroidSpec)
        frozen = load_frozen(task)
        train, val = frozen.train, frozen.val
        metrics: tuple[Literal["cosine", "euclidean"], ...] = grid_values(spec.metric)
        settings = [{"metric": metric} for metric in metrics]
        with task.runtime.phase("fit"):
            fits = [
                measure_centroids(train.features, train.labels, task.num_classes, metric)
                for metric in metrics
            ]
            if val is None:
                choice = take_only(
                    settings,
                    frozen,
                    lambda: fits[0].held_out(train.features, train.labels),
                    _SCALES[metrics[0]],
                )
            else:
                choice = choose_on_val(
                    settings, lambda index: fits[index].scores(val.features), val.labels
                )
        chosen = fits[choice.index]
        head = chosen.make_head(choice.scale, train.features)
        fitted = FittedHead(head, chosen.means.numel(), choice.selection, choice.notes)
        return adapt_head(task, frozen, fitted)
