"""Other people's packages, driven on the same backbone and data where they are installed."""

from __future__ import annotations

import contextlib
import io
import tempfile
import types
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

ClipProbe: TypeAlias = Callable[[nn.Module, Sequence[DataLoader[Any]], int], dict[str, float]]
"""Backbone, loaders of train, val and test, workers of its own loaders -> scores."""

CLIP_NUM_WORKERS = 4
"""What its command line sets where nobody says otherwise."""


class _AsClip(nn.Module):
    """A backbone behind the one method that the peer calls."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone.eval()

    def encode_image(self, images: Tensor) -> Tensor:
        """Return features, shape (B, D)."""
        features: Tensor = self.backbone(images)
        return features.float()


def _top_k(logits: Tensor, labels: Tensor, topk: Sequence[int] = (1,)) -> list[float]:
    right = logits.topk(max(topk), dim=1).indices == labels[:, None]
    return [float(right[:, :k].any(dim=1).double().mean()) for k in topk]


def load_clip_benchmark() -> ClipProbe | None:
    """Return the linear probe of ``clip-benchmark`` made to run on a CPU, or None if not installed.

    The package refuses any device but CUDA. The places that say so are replaced in a copy of its
    module in memory, and so is its top-k accuracy, which recent NumPy refuses; the rest is its own.
    """
    found = (
        find_spec("clip_benchmark.metrics.linear_probe") if find_spec("clip_benchmark") else None
    )
    if found is None or found.origin is None:
        return None
    source = Path(found.origin).read_text()
    for said, instead in ((".cuda()", ".cpu()"), ("assert device == 'cuda'", "assert device")):
        if said not in source:
            raise RuntimeError(f"clip-benchmark has changed: '{said}' is not in {found.name}")
        source = source.replace(said, instead)
    module = types.ModuleType(found.name)
    module.__package__ = "clip_benchmark.metrics"
    exec(compile(source, found.origin, "exec"), module.__dict__)
    module.__dict__["accuracy"] = _top_k

    def probe(
        backbone: nn.Module, loaders: Sequence[DataLoader[Any]], num_workers: int
    ) -> dict[str, float]:
        train, val, test = loaders
        silence = io.StringIO()
        with (
            tempfile.TemporaryDirectory() as folder,
            contextlib.redirect_stdout(silence),
            contextlib.redirect_stderr(silence),
        ):
            scores: dict[str, float] = module.evaluate(
                _AsClip(backbone),
                train,
                test,
                fewshot_k=-1,
                batch_size=64,
                num_workers=num_workers,
                lr=0.1,
                epochs=10,
                model_id="backbone",
                seed=0,
                feature_root=folder,
                device=torch.device("cpu").type,
                val_dataloader=val,
            )
        return scores

    return probe
