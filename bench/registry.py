"""Name -> factory as strings, so that listing imports nothing; plugins come by entry points.

A new backbone source, dataset source or strategy is one new file and one line here, or an entry
point ``bench.backbones``, ``bench.datasets`` or ``bench.strategies`` in another distribution.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import Any, cast

from bench.entry_points import Plugin, find_plugins, forget_found
from bench.errors import BenchError, UsageError
from bench.interfaces import BackboneSource, DatasetSource, Emit, Modality, Strategy
from bench.plugins import guard
from bench.spec import BackboneSpec, Cell, DatasetSpec

BACKBONES = {
    "hf": "bench.backbones.hf:HubSource",
    "packaged": "bench.backbones.packaged:PackagedSource",
    "plain": "bench.backbones.plain:PlainSource",
    "timm": "bench.backbones.timm:TimmSource",
    "torchvision": "bench.backbones.torchvision:TorchvisionSource",
}
DATASETS = {
    "chatterbot-topics": "bench.datasets.chatterbot:ChatterbotSource",
    "digits": "bench.datasets.digits:DigitsSource",
    "folder": "bench.datasets.folder:FolderSource",
    "hf": "bench.datasets.hf:HubDataSource",
    "mnist-5k": "bench.datasets.mnist_5k:Mnist5kSource",
    "table": "bench.datasets.table:TableSource",
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
    found = find_plugins()
    plugins = {name: each[0].target for (of, name), each in found.items() if of == kind}
    return MappingProxyType(dict(sorted((plugins | _BUILT_IN[kind]).items())))


def plugin_of(kind: str, name: str) -> Plugin | None:
    """Return the plugin that provides a registered name, or None where bench itself does.

    Args:
        kind: As above.
        name: A strategy, or the prefix of a source.

    Raises:
        BenchError: Several distributions provide it.
    """
    if name in _BUILT_IN[kind]:
        return None
    found = find_plugins().get((kind, name), ())
    if len(found) > 1:
        raise BenchError(_describe_twins(found))
    return found[0] if found else None


def plugins_of(cell: Cell) -> Mapping[str, Plugin]:
    """Return kind -> plugin for what a cell takes from other distributions; raises as above.

    Their versions are part of what a cell is known by: bench cannot know what changed in them.
    """
    names = {
        "backbones": backbone_prefix(cell.backbone.name),
        "datasets": dataset_prefix(cell.dataset.name),
        "strategies": cell.strategy.name,
    }
    found = {kind: plugin_of(kind, name) for kind, name in names.items()}
    return {kind: plugin for kind, plugin in found.items() if plugin is not None}


@dataclass(frozen=True)
class PluginState:
    """A plugin, whether it can be used in one word or two, and why not in a sentence."""

    plugin: Plugin
    word: str
    problem: str | None = None


def plugin_states() -> tuple[PluginState, ...]:
    """Return every plugin, by kind and name, with whether it can be used; it imports them."""
    return tuple(
        _state_of(plugin, plugins)
        for _, plugins in sorted(find_plugins().items())
        for plugin in plugins
    )


def _state_of(plugin: Plugin, of_this_name: Sequence[Plugin]) -> PluginState:
    if plugin.name in _BUILT_IN[plugin.kind]:
        reason = f"{plugin} is not used: the built-in of that name wins. Rename the entry point."
        return PluginState(plugin, "not used", reason)
    if len(of_this_name) > 1:
        return PluginState(plugin, "not used", _describe_twins(of_this_name))
    try:
        _load(plugin.kind, plugin.name)
    except BenchError as error:
        return PluginState(plugin, "broken", str(error))
    return PluginState(plugin, "ready")


def forget_plugins() -> None:
    """Look for plugins again from now on: call it after one was installed or removed."""
    forget_found()
    registered.cache_clear()
    _load.cache_clear()


def _describe_twins(plugins: Sequence[Plugin]) -> str:
    listed = " and ".join(map(str, plugins))
    return f"{listed} give one name, and none is used. Uninstall all but one."


@cache
def _load(kind: str, name: str) -> Any:
    target = registered(kind).get(name)
    if target is None:
        raise UsageError(f"no {kind} entry '{name}'. Known: {', '.join(registered(kind))}.")
    if target.startswith("bench."):
        module, _, attribute = target.partition(":")
        return getattr(import_module(module), attribute)()
    plugin = plugin_of(kind, name)
    return Plugin(kind, name, target).make() if plugin is None else guard(plugin)


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


def backbone_modality(spec: BackboneSpec) -> Modality | None:
    """Return what a backbone takes; None where that is known only once it is downloaded.

    A source says so in a method ``modality(spec)``; without one its backbones take images.
    """
    return _modality(backbone_source(spec.name), spec)


def dataset_modality(spec: DatasetSpec) -> Modality | None:
    """Return what a dataset's examples are; as `backbone_modality`."""
    return _modality(dataset_source(spec.name), spec)


def _modality(source: object, spec: object) -> Modality | None:
    ask = getattr(source, "modality", None)
    return "image" if ask is None else cast(Modality | None, ask(spec))


def are_alike(taken: Modality | None, held: Modality | None) -> bool:
    """Return whether a backbone takes what a dataset holds, as far as both are known."""
    return taken is None or held is None or taken == held


def strategy(name: str) -> Strategy:
    """Return a strategy by its name; raises as `backbone_source`."""
    return cast(Strategy, _load("strategies", name))
