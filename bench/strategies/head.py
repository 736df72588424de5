"""A linear head on a backbone's features; it knows no training and no data."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


class Classifier(nn.Module):
    """Normalised inputs -> logits: a backbone and one linear layer.

    The head runs in float32 under any autocast: in 16 bits the largest logits tie too often, and
    the layer is too small for the precision to cost time.

    Args:
        backbone: Inputs, shape (B, 3, H, W) -> features, shape (B, D).
        head: Features -> logits, shape (B, K).
    """

    def __init__(self, backbone: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits, shape (B, K), float32."""
        features = self.backbone(inputs)
        with torch.autocast(features.device.type, enabled=False):
            return cast(Tensor, self.head(features.float()))


def make_head(
    feature_dim: int, num_classes: int, weights: tuple[Tensor, Tensor] | None = None
) -> nn.Linear:
    """Return a linear head in float32 that is zero, or holds the given solution.

    Zeros are deterministic, start at the uniform prediction and leave the first gradient of the
    backbone at zero, so that it moves only once the head points somewhere.

    Args:
        feature_dim: D.
        num_classes: K.
        weights: Weight, shape (K, D), and bias, shape (K,), of a probe on the raw features.
    """
    # The usual constructor would draw from global random state, only to be overwritten.
    head = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.Linear, feature_dim, num_classes
    )
    with torch.no_grad():
        if weights is None:
            head.weight.zero_()
            head.bias.zero_()
        else:
            head.weight.copy_(weights[0])
            head.bias.copy_(weights[1])
    return cast(nn.Linear, head)
