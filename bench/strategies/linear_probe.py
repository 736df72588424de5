"""`linear_probe`: a frozen backbone and a logistic regression on its features; knows no solver."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import PositiveFloat

from bench.interfaces import Adapted, Split, Task
from bench.record import Effective, GridPoint, NumericsPlan, Selection
from bench.spec import Grid, StrategySpec

if TYPE_CHECKING:
    import torch

    from bench.strategies.probe import LabelledFeatures, ProbePath

_DECADES, _PER_DECADE = 11, 4
_FIXED_L2 = 1.0


class LinearProbeSpec(StrategySpec):
    """Fields of `linear_probe`.

    Attributes:
        l2: Strength of the penalty l2 * ||W||^2 / 2 beside the sum of losses, scikit-learn's 1/C;
            a list is a path solved at once and chosen on val. One value needs no val.
        standardize: Scale each feature to unit variance over train.
    """

    model_config = StrategySpec.model_config | {"extra": "forbid"}

    name: str = "linear_probe"
    l2: PositiveFloat | Grid[PositiveFloat] = tuple(
        float(f"{10 ** (6 - step / _PER_DECADE):.6g}") for step in range(_DECADES * _PER_DECADE + 1)
    )
    standardize: bool = True


class LinearProbe:
    """Fit a linear classifier on frozen features."""

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
        return len(_path_of(spec)) > 1

    def adapt(self, task: Task, spec: StrategySpec) -> Adapted:
        """Return the probe with the strength that val chose; see `Strategy.adapt`."""
        from bench.strategies.features import count_constant, extract_features, plan_features
        from bench.strategies.head import Classifier, make_head

        assert isinstance(spec, LinearProbeSpec)
        backbone, device = task.backbone, task.runtime.device
        plan = plan_features(backbone, task.train, task.runtime)
        train = _labelled(task, task.train, plan)
        constant = count_constant(train.features, backbone)
        path = _fit(task, spec, train, plan)
        width = backbone.info.feature_dim
        head = make_head(width, task.num_classes, (path.weight, path.bias))
        classifier = Classifier(backbone.module, head).to(device).eval()

        def predict(split: Split) -> torch.Tensor:
            features = extract_features(backbone, split, task.runtime, plan)
            logits: torch.Tensor = classifier.head(features.to(device))
            return logits.detach().cpu()

        trainable = sum(value.numel() for value in head.parameters())
        return Adapted(
            predict=predict,
            effective=_describe(task, plan, path, constant),
            num_parameters=backbone.info.num_parameters + trainable,
            num_trainable_parameters=trainable,
            classifier=classifier,
            selection=_selection(path),
        )


def probe_head(task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight (K, D) and bias (K,) of the default probe, on features as they are.

    The strength is chosen on val; without val it is 1.0.
    """
    from bench.strategies.features import plan_features

    spec = LinearProbeSpec() if task.val is not None else LinearProbeSpec(l2=_FIXED_L2)
    plan = plan_features(task.backbone, task.train, task.runtime)
    path = _fit(task, spec, _labelled(task, task.train, plan), plan)
    return path.weight, path.bias


def _path_of(spec: LinearProbeSpec) -> tuple[float, ...]:
    return spec.l2 if isinstance(spec.l2, tuple) else (spec.l2,)


def _labelled(task: Task, split: Split, plan: NumericsPlan) -> LabelledFeatures:
    import torch

    from bench.strategies.features import extract_features
    from bench.strategies.probe import LabelledFeatures

    features = extract_features(task.backbone, split, task.runtime, plan)
    device = task.runtime.device
    return LabelledFeatures(features.to(device), torch.from_numpy(split.labels).to(device))


def _fit(
    task: Task, spec: LinearProbeSpec, train: LabelledFeatures, plan: NumericsPlan
) -> ProbePath:
    from bench.strategies.probe import fit_probe

    val = None if task.val is None else _labelled(task, task.val, plan)
    with task.runtime.phase("fit"):
        return fit_probe(
            train,
            val,
            l2_path=_path_of(spec),
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


def _describe(task: Task, plan: NumericsPlan, path: ProbePath, constant: int) -> Effective:
    notes = list(path.notes)
    if constant:
        width = task.backbone.info.feature_dim
        notes.append(f"{constant} of {width} features are constant on train")
    return Effective(device=str(task.runtime.device), forward=plan, notes=tuple(notes))
