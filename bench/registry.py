"""Name -> factory as strings, so that listing imports nothing; plugins come by entry points.

A new backbone source, dataset source or strategy is one new file and one line here, or an entry
point ``bench.backbones``, ``bench.datasets`` or ``bench.strategies`` in another distribution.
"""

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, cast

from bench.errors import BenchError, UsageError
from bench.interfaces import BackboneSource, DatasetSource, Emit, Strategy

BACKBONES = {
    "hf": "bench.backbones.hf:HubSource",
    "packaged": "bench.backbones.packaged:PackagedSource",
    "plain": "bench.backbones.plain:PlainSource",
    "timm": "bench.backbones.timm:TimmSource",
    "torchvision": "bench.backbones.torchvision:TorchvisionSource",
}
DATASETS = {
    "digits": "bench.datasets.digits:DigitsSource",
    "folder": "bench.datasets.folder:FolderSource",
    "mnist-5k": "bench.datasets.mnist_5k:Mnist5kSource",
    "torchvision": "bench.datasets.torchvision:TorchvisionSource",
}
STRATEGIES = {
    "bias_only": "bench.strategies.bias_only:BiasOnly",
    "full": "bench.strategies.full:Full",
    "gradual_unfreeze": "bench.strategies.gradual_unfreeze:GradualUnfreeze",
    "knn": "bench.strategies.knn:Knn",
    "l2_sp": "bench.strategies.l2_sp:L2Sp",
    "layer_decay": "bench.strategies.layer_decay:LayerDecay",
    "linear_probe": "bench.strategies.linear_probe:LinearProbe",
    "lora": "bench.strategies.lora:Lora",
    "lp_ft": "bench.strategies.lp_ft:LpFt",
    "nearest_centroid": "bench.strategies.nearest_centroid:NearestCentroid",
    "norm_only": "bench.strategies.norm_only:NormOnly",
    "partial": "bench.strategies.partial:Partial",
    "ridge_probe": "bench.strategies.ridge_probe:RidgeProbe",
    "scratch": "bench.strategies.scratch:Scratch",
}
_BUILT_IN = {"backbones": BACKBONES, "datasets": DATASETS, "strategies": STRATEGIES}


@cache
def registered(kind: str) -> Mapping[str, str]:
    """Return name -> ``module:attribute`` for built-ins and plugins; a built-in name wins.

    Args:
        kind: ``backbones``, ``datasets`` or ``strategies``.
    """
    plugins = {point.name: point.value for point in entry_points(group=f"bench.{kind}")}
    return MappingProxyType(dict(sorted((plugins | _BUILT_IN[kind]).items())))


@cache
def _load(kind: str, name: str) -> Any:
    target = registered(kind).get(name)
    if target is None:
        raise UsageError(f"no {kind} entry '{name}'. Known: {', '.join(registered(kind))}.")
    if target.startswith("bench."):
        module, _, attribute = target.partition(":")
        return getattr(import_module(module), attribute)()
    try:
        return EntryPoint(name, target, f"bench.{kind}").load()()
    except Exception as error:
        raise BenchError(
            f"plugin '{name}' ({target}, entry point bench.{kind}) does not load: "
            f"{type(error).__name__}: {error}. Fix or uninstall it."
        ) from error


def backbone_prefix(name: str) -> str:
    """Return the source part of a backbone name: ``timm`` of ``timm/resnet18``."""
    return name.partition("/")[0]


def dataset_prefix(name: str) -> str:
    """Return the source part of a dataset name: ``folder`` of ``folder:~/x``, or ``digits``."""
    head = name.partition(":")[0]
    return head if head in registered("datasets") else name.partition("/")[0]


def backbone_source(name: str) -> BackboneSource:
    """Return the source of a backbone, by the backbone's name.

    Raises:
        UsageError: No source has that prefix.
        BenchError: The plugin that provides it does not load.
    """
    return cast(BackboneSource, _load("backbones", backbone_prefix(name)))


def dataset_source(name: str) -> DatasetSource:
    """Return the source of a dataset, by the dataset's name; raises as `backbone_source`."""
    return cast(DatasetSource, _load("datasets", dataset_prefix(name)))


def fetch_method(source: BackboneSource | DatasetSource) -> Callable[[Any, Emit], None] | None:
    """Return a source's `interfaces.Fetching.fetch`, or None where it does not offer one."""
    return cast("Callable[[Any, Emit], None] | None", getattr(source, "fetch", None))


def strategy(name: str) -> Strategy:
    """Return a strategy by its name; raises as `backbone_source`."""
    return cast(Strategy, _load("strategies", name))
