"""`ridge_probe`: a frozen backbone and least squares on its features; knows no linear algebra."""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveFloat

from bench.interfaces import Adapted, Task
from bench.spec import Grid, StrategySpec, grid_values

_HIGHEST, _DECADES, _PER_DECADE = 7, 11, 2
_SCALE = 1.5
"""Of scores in units of their spread over train, where neither val nor train can say it."""


class RidgeProbeSpec(StrategySpec):
    """Fields of `ridge_probe`.

    Attributes:
        l2: Strength of the penalty l2 * ||W||^2 beside the sum of squared errors, scikit-learn's
            alpha; a list is a path solved at once and chosen on val. One value needs no val.
        standardize: Scale each feature to unit variance over train; it helps where features have
            units of their own, and hurts with few shots, whose variances are a matter of chance.
    """

    model_config = StrategySpec.model_config | {"extra": "forbid"}

    name: str = "ridge_probe"
    l2: PositiveFloat | Grid[PositiveFloat] = tuple(
        float(f"{10 ** (_HIGHEST - step / _PER_DECADE):.6g}")
        for step in range(_DECADES * _PER_DECADE + 1)
    )
    standardize: bool = False


class RidgeProbe:
    """Fit class labels by least squares on frozen features, in closed form.

    Probabilities are a softmax of scaled scores. The scale is fitted on val; without val on train,
    each example by the fit to all others. Where a class has a single example, or train says nothing
    that way, logits are 1.5 times the scores in units of their spread over train.

    Source: Hoerl & Kennard, 1970; as a classifier Rifkin et al., 2003 (scikit-learn's
    RidgeClassifier).
    """

    Spec: ClassVar[type[StrategySpec]] = RidgeProbeSpec
    version: ClassVar[int] = 1
    summary: ClassVar[str] = (
        "frozen backbone, least squares on its features in closed form, all strengths from one "
        "decomposition; one forward pass; quicker than linear_probe where classes are many"
    )
    trains_backbone: ClassVar[bool] = False

    def needs_val(self, spec: StrategySpec) -> bool:
        """Return True for a path of strengths."""
        return len(spec.grid_points()) > 1

    def adapt(self, task: Task, spec: StrategySpec) -> Adapted:
        """Return the fit with the strength that val chose; see `Strategy.adapt`."""
        from bench.strategies.frozen import (
            FittedHead,
            adapt_head,
            choose_on_val,
            load_frozen,
            take_only,
        )
        from bench.strategies.ridge import fit_ridge

        assert isinstance(spec, RidgeProbeSpec)
        frozen = load_frozen(task)
        train, val = frozen.train, frozen.val
        # Strongest first: of equals it is the one to keep.
        path = sorted(grid_values(spec.l2), reverse=True)
        settings = [{"l2": l2} for l2 in path]
        with task.runtime.phase("fit"):
            fit = fit_ridge(
                train.features, train.labels, task.num_classes, standardize=spec.standardize
            )
            if val is None:
                # Features that are all alike give scores without a spread, and any scale will do.
                fallback = _SCALE / (fit.spread(path[0]) or 1.0)
                choice = take_only(settings, frozen, lambda: fit.held_out(path[0]), fallback)
            else:
                projected = fit.project(val.features)
                choice = choose_on_val(
                    settings, lambda index: fit.scores(projected, path[index]), val.labels
                )
            head = fit.make_head(path[choice.index], choice.scale)
        fitted = FittedHead(
            head, head.weight.numel() + len(head.bias), choice.selection, choice.notes
        )
        return adapt_head(task, frozen, fitted)
