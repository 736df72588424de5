"""`linear_probe`: a frozen backbone and a logistic regression on its features; knows no solver."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, SerializerFunctionWrapHandler, model_serializer

from bench.interfaces import Adapted, Task
from bench.record import GridPoint, Selection
from bench.spec import Grid, StrategySpec, grid_values

if TYPE_CHECKING:
    import torch

    from bench.strategies.frozen import FrozenFeatures
    from bench.strategies.probe import ProbePath

_DECADES, _PER_DECADE = 11, 4
_FIXED_L2 = 1.0
_VIEW_FIELDS = ("views", "augmentation")


class LinearProbeSpec(StrategySpec):
    """Fields of `linear_probe`.

    Attributes:
        l2: Strength of the penalty l2 * ||W||^2 / 2 beside the sum of losses, scikit-learn's 1/C;
            a list is a path solved at once and chosen on val. One value needs no val.
        standardize: Scale each feature to unit variance over train.
        views: Augmented views of each train image that are fitted beside the plain one, drawn from
            the seed. Train is encoded so many times more, and losses are summed over views.
        augmentation: How views are drawn, as in training.
        class_weights: ``balanced`` weighs the loss of an example by N / (k * n_c), for n_c of N
            train examples of its class and k classes. What val chooses by is not weighted.
    """

    model_config = StrategySpec.model_config | {"extra": "forbid"}

    name: str = "linear_probe"
    l2: PositiveFloat | Grid[PositiveFloat] = tuple(
        float(f"{10 ** (6 - step / _PER_DECADE):.6g}") for step in range(_DECADES * _PER_DECADE + 1)
    )
    standardize: bool = True
    views: int = Field(default=0, ge=0, le=100)
    augmentation: Literal["flip_crop", "strong"] = "flip_crop"
    class_weights: Literal["none", "balanced"] = "none"

    def only_for_images(self) -> tuple[str, ...]:
        """Return ``views`` where there are any."""
        return ("views",) if self.views else ()

    @model_serializer(mode="wrap")
    def _without_what_is_off(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is off and came later: keys and labels of cells from before it stay."""
        off = () if self.views else _VIEW_FIELDS
        if self.class_weights == "none":
            off = (*off, "class_weights")
        values: dict[str, Any] = handler(self)
        return {key: value for key, value in values.items() if key not in off}


class LinearProbe:
    """Fit a linear classifier on frozen features.

    Source: Kornblith et al., 2019, section 3; views as in Chen et al., 2020, who augment the
    training of their linear evaluation.
    """

    Spec: ClassVar[type[StrategySpec]] = LinearProbeSpec
    version: ClassVar[int] = 1
    summary: ClassVar[str] = (
        "frozen backbone, L2 logistic regression on its features over a whole path of strengths: "
        "one forward pass and seconds of solving; the first thing to try"
    )
    trains_backbone: ClassVar[bool] = False

    def needs_val(self, spec: StrategySpec) -> bool:
        """Return True for a path of strengths."""
        assert isinstance(spec, LinearProbeSpec)
        return len(grid_values(spec.l2)) > 1

    def adapt(self, task: Task, spec: StrategySpec) -> Adapted:
        """Return the probe with the strength that val chose; see `Strategy.adapt`.

        Raises:
            StrategyError: Views are asked of what is no image.
        """
        from bench.strategies.freeze import refuse_image_fields
        from bench.strategies.frozen import FittedHead, adapt_head, load_frozen
        from bench.strategies.head import Classifier, make_head

        assert isinstance(spec, LinearProbeSpec)
        refuse_image_fields(task.backbone, spec)
        frozen = load_frozen(task)
        path = _fit(task, spec, frozen)
        width = task.backbone.info.feature_dim
        head = make_head(width, task.num_classes, (path.weight, path.bias))
        notes = path.notes
        if spec.views:
            views = f"{spec.views} {spec.augmentation} views"
            notes = (*notes, f"fitted on {views} of each train image beside the plain one")
        num_fitted = head.weight.numel() + head.bias.numel()
        fitted = FittedHead(head, num_fitted, _selection(path), notes)
        return adapt_head(task, frozen, fitted, Classifier(task.backbone.module, head))


def probe_head(
    task: Task, class_weights: Literal["none", "balanced"] = "none"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight (K, D) and bias (K,) of a probe on features as they are, to train on from.

    Features are not standardised: the weight of a feature that hardly varies would be divided by
    its tiny deviation, and the first step that moves it would turn the prediction over. The
    strength is chosen on val, in a refit on the val that all else was chosen on; without val it is
    1.0.

    Args:
        task: Backbone and splits.
        class_weights: As in the probe's spec.
    """
    spec = LinearProbeSpec(standardize=False, class_weights=class_weights)
    if task.refit is not None:
        choosing = replace(task, train=task.refit.train, val=task.refit.val, refit=None)
        path = _probe(choosing, spec)
        spec = spec.model_copy(update={"l2": path.points[path.chosen].l2})
    elif task.val is None:
        spec = spec.model_copy(update={"l2": _FIXED_L2})
    path = _probe(task, spec)
    return path.weight, path.bias


def _probe(task: Task, spec: LinearProbeSpec) -> ProbePath:
    from bench.strategies.frozen import load_frozen

    return _fit(task, spec, load_frozen(task))


def _fit(task: Task, spec: LinearProbeSpec, frozen: FrozenFeatures) -> ProbePath:
    import torch

    from bench.strategies.imbalance import balanced_weights
    from bench.strategies.probe import LabelledFeatures, fit_probe
    from bench.strategies.views import Views, extract_views

    train = frozen.train
    if spec.views:
        views = Views(spec.views, spec.augmentation, task.seed)
        more = extract_views(task.backbone, task.train, task.runtime, frozen.plan, views)
        features = torch.cat([train.features, more.to(train.features.device)])
        train = LabelledFeatures(features, train.labels.repeat(1 + spec.views))
    if spec.class_weights == "balanced":
        by_class = torch.from_numpy(balanced_weights(task.train.labels, task.num_classes))
        train = replace(train, weights=by_class.to(train.labels.device)[train.labels])
    with task.runtime.phase("fit"):
        return fit_probe(
            train,
            frozen.val,
            l2_path=grid_values(spec.l2),
            num_classes=task.num_classes,
            standardize=spec.standardize,
        )


def _selection(path: ProbePath) -> Selection | None:
    """Return what val saw; None without val, where nothing was chosen."""
    if path.points[0].val_accuracy is None:
        return None
    return Selection(
        points=tuple(
            GridPoint(
                setting={"l2": point.l2},
                val_accuracy=point.val_accuracy,
                val_loss=point.val_loss,
                note=None if point.converged else "not converged",
            )
            for point in path.points
        ),
        chosen=path.chosen,
        at_grid_edge=path.at_grid_edge,
        converged=path.converged,
    )
