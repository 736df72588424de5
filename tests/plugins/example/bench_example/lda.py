"""`lda`: Gaussians of one covariance on frozen features; knows no backbone and no image."""

from __future__ import annotations

from typing import ClassVar, Literal

from bench.errors import StrategyError
from bench.interfaces import Adapted, Task
from bench.spec import StrategySpec


class LdaSpec(StrategySpec):
    """Fields of `lda`.

    Attributes:
        priors: How likely a class is before an example is seen: as in train, or all alike.
    """

    model_config = StrategySpec.model_config | {"extra": "forbid"}
    name: str = "lda"
    priors: Literal["train", "uniform"] = "train"


class Lda:
    """Fit one mean per class and one covariance for all, shrunk as Ledoit and Wolf do.

    Source: Hastie et al., 2009, section 4.3; Ledoit & Wolf, 2004, by scikit-learn.
    """

    Spec: ClassVar[type[StrategySpec]] = LdaSpec
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "linear discriminants on frozen features, in closed form, without val"
    trains_backbone: ClassVar[bool] = False

    def needs_val(self, spec: StrategySpec) -> bool:
        """Return False: the shrinkage follows from train."""
        return False

    def adapt(self, task: Task, spec: StrategySpec) -> Adapted:
        """Return the fitted head; a class without train examples raises StrategyError."""
        import torch
        from sklearn.covariance import ledoit_wolf

        from bench.strategies.frozen import FittedHead, adapt_head, load_frozen
        from bench.strategies.head import make_head

        frozen = load_frozen(task)
        counts, labels = frozen.counts, frozen.train.labels
        features = frozen.train.features.double()
        if not counts.all():
            raise StrategyError(f"lda: {int((counts == 0).sum())} classes have no train example")
        means = torch.stack([features[labels == k].mean(0) for k in range(len(counts))])
        centred = (features - means[labels]).cpu().numpy()
        covariance = torch.from_numpy(ledoit_wolf(centred, assume_centered=True)[0]).to(means)
        weight = torch.linalg.solve(covariance, means.T).T
        prior = counts if spec.priors == "train" else torch.ones_like(counts)
        bias = (prior / prior.sum()).log() - (weight * means).sum(1) / 2
        head = make_head(means.shape[1], len(counts), (weight, bias))
        return adapt_head(task, frozen, FittedHead(head, weight.numel() + bias.numel(), None))
