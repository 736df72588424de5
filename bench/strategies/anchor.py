"""The weights that a training began with, and the pull towards them; it knows no loss, no loop."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.strategies.head import Classifier


class Anchor:
    """Holds a copy of a backbone's parameters and adds the gradient of the distance from it."""

    def __init__(self) -> None:
        self._classifier: Classifier | None = None
        self._held: list[Tensor] = []

    def hold(self, classifier: Classifier) -> None:
        """Keep the backbone's parameters as they are, on their device."""
        self._classifier = classifier
        self.renew()

    def renew(self) -> None:
        """Keep the parameters as they are now: a step costs the same wherever it is pulled to."""
        assert self._classifier is not None
        parameters = self._classifier.backbone.parameters()
        self._held = [value.detach().clone() for value in parameters]

    def release(self) -> None:
        """Give the copy's memory back: the deployed model has no need of it."""
        self._held = []

    @torch.no_grad()
    def add_gradients(self, alpha: float, beta: float) -> None:
        """Add the gradient of alpha / 2 * ||w - w0||^2 + beta / 2 * ||v||^2, in place.

        Parameters without a gradient are left alone: they do not train.

        Args:
            alpha: For the backbone's parameters w, held as w0.
            beta: For the head's parameters v.
        """
        assert self._classifier is not None
        self._follow_memory_order()
        parameters = list(self._classifier.backbone.parameters())
        pulled = [
            (value.grad, value, held)
            for value, held in zip(parameters, self._held, strict=True)
            if value.grad is not None
        ]
        if pulled:
            gradients, values, held = (list(column) for column in zip(*pulled, strict=True))
            torch._foreach_add_(gradients, values, alpha=alpha)
            torch._foreach_add_(gradients, held, alpha=-alpha)
        for value in self._classifier.head.parameters():
            if value.grad is not None:
                value.grad.add_(value, alpha=beta)

    def _follow_memory_order(self) -> None:
        """Bring the copy into the order the plan gave the weights, which is fast to subtract."""
        assert self._classifier is not None
        for place, value in enumerate(self._classifier.backbone.parameters()):
            if self._held[place].stride() != value.stride():
                self._held[place] = torch.empty_like(value).copy_(self._held[place])
