"""The ordered stages of a backbone, from its parameter names; knows no weights and no data.

timm models say themselves how their parameters group. For the others the module tree is cut into
units, and a unit with two weight tensors or more is a block: what comes before the first block is
the stem, what follows the last one (final norm, last convolution) belongs to it, and a lone
convolution between two blocks (a transition) belongs to the one after. All of this goes by the
order of definition; `use_order` mends it where a model runs in another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from bench.errors import BackboneError
from bench.interfaces import Stage

_STEM = "stem"
_OUTSIDE = "\0"
_CONTAINERS = ("features", "encoder", "encoder.layers", "layers", "trunk_output", "blocks")


@dataclass(frozen=True)
class _Unit:
    """A subtree of the model with parameters; `num_weights` counts tensors of two dimensions up."""

    path: str
    num_weights: int


class _ParameterNames:
    """What timm's grouping reads of a model, with one name more that no pattern matches.

    The group in which that name ends up is the one of everything unmatched.
    """

    def __init__(self, model: nn.Module) -> None:
        self._names = [*(name for name, _ in model.named_parameters()), _OUTSIDE]

    def named_parameters(self) -> Iterator[tuple[str, None]]:
        """Yield every name."""
        return ((name, None) for name in self._names)


def timm_stages(model: nn.Module) -> tuple[Stage, ...]:
    """Return the stages as the model's own ``group_matcher`` gives them, coarse.

    The few architectures without one (MetaFormer, PiT, RDNet) are cut as hub models are.

    Args:
        model: A timm model without classifier.

    Raises:
        BackboneError: Some parameter would belong to no stage or to two.

    Source: timm 1.0, ``timm.models.group_parameters``.
    """
    from timm.models import group_parameters

    try:
        matcher = model.group_matcher(coarse=True)  # type: ignore[operator]
    except (AttributeError, AssertionError):
        return hub_stages(model)
    groups = group_parameters(_ParameterNames(model), matcher)
    ordered: list[list[str]] = []
    for _, members in sorted(groups.items()):
        own = [name for name in members if name != _OUTSIDE]
        # Whatever no pattern matches (neck, final norm) comes after the last block.
        if own and _OUTSIDE in members and ordered:
            ordered[-1].extend(own)
        elif own:
            ordered.append(own)
    owner = {name: index for index, members in enumerate(ordered) for name in members}
    return stages_of(model, owner)


def torchvision_stages(model: nn.Module) -> tuple[Stage, ...]:
    """Return the stages of a torchvision classification model without its classifier."""
    units = _units(model, lambda path: path in _CONTAINERS)
    blocks = {unit.path for unit in units if unit.num_weights > 1}
    if len(blocks) <= 1:
        # A plain chain (VGG, AlexNet): every convolution and the hidden classifier is a stage.
        blocks = {unit.path for unit in units if unit.num_weights}
    return _stages_of_units(model, units, blocks)


def hub_stages(model: nn.Module) -> tuple[Stage, ...]:
    """Return the stages of a transformers vision model: the children of its main list of layers.

    The main list is the one with most parameters, the outer one of equals. Without any list the
    whole model is a single stage.
    """
    lists = [
        (path, sum(parameter.numel() for parameter in module.parameters()))
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) > 1
    ]
    if not lists:
        return stages_of(model, {name: 0 for name, _ in model.named_parameters()})
    # Modules are named from the outside in, and max keeps the first of equals.
    main, _ = max(lists, key=lambda item: item[1])
    units = _units(model, lambda path: main == path or main.startswith(f"{path}."))
    blocks = {unit.path for unit in units if unit.path.rpartition(".")[0] == main}
    return _stages_of_units(model, units, blocks)


def _units(model: nn.Module, expand: Callable[[str], bool]) -> list[_Unit]:
    """Return the subtrees in order, containers replaced by their children."""
    units: list[_Unit] = []

    def visit(module: nn.Module, prefix: str) -> None:
        for name, child in module.named_children():
            path = f"{prefix}{name}"
            shapes = [parameter.ndim for parameter in child.parameters()]
            if not shapes:
                continue
            if expand(path):
                visit(child, f"{path}.")
            else:
                units.append(_Unit(path, sum(ndim > 1 for ndim in shapes)))

    visit(model, "")
    return units


def _stages_of_units(
    model: nn.Module, units: Sequence[_Unit], blocks: set[str]
) -> tuple[Stage, ...]:
    """Return the stem and one stage per block, named by its block."""
    stage_of_unit: dict[str, int] = {}
    names: list[str] = [_STEM]
    waiting: list[str] = []
    for unit in units:
        if unit.path in blocks:
            stage_of_unit |= dict.fromkeys([*waiting, unit.path], len(names))
            names.append(unit.path)
            waiting = []
        elif unit.num_weights and len(names) > 1:
            waiting.append(unit.path)
        else:
            stage_of_unit[unit.path] = len(names) - 1
    stage_of_unit |= dict.fromkeys(waiting, len(names) - 1)

    def find(name: str) -> int:
        # A parameter of a container itself (class token, position embedding) is of the stem.
        paths = (path for path in stage_of_unit if name.startswith(f"{path}."))
        return next((stage_of_unit[path] for path in paths), 0)

    owner = {name: find(name) for name, _ in model.named_parameters()}
    return stages_of(model, owner, names)


def stages_of(
    model: nn.Module, owner: Mapping[str, int], names: Sequence[str] = ()
) -> tuple[Stage, ...]:
    """Return stages as maximal whole modules plus the parameters that lie in none.

    Args:
        model: Whose parameters they are.
        owner: Stage index of every parameter by name; indices order the stages.
        names: Of the stages by index; without them a stage is named by its first module.

    Raises:
        BackboneError: Some parameter would belong to no stage or to two.
    """
    of_parameter = {id(parameter): owner.get(name) for name, parameter in model.named_parameters()}
    modules: dict[int, list[str]] = {index: [] for index in sorted(set(owner.values()))}
    parameters: dict[int, list[str]] = {index: [] for index in modules}
    seen: set[int] = set()

    def visit(module: nn.Module, prefix: str) -> None:
        for name, parameter in module.named_parameters(recurse=False):
            index = of_parameter[id(parameter)]
            if id(parameter) not in seen and index is not None:
                parameters[index].append(f"{prefix}{name}")
                seen.add(id(parameter))
        for name, child in module.named_children():
            own = {id(parameter) for parameter in child.parameters()}
            indices = {of_parameter[item] for item in own}
            # A parameter shared with an earlier module is that one's; this one is not whole.
            index = indices.pop() if len(indices) == 1 and not own & seen else None
            if index is None:
                visit(child, f"{prefix}{name}.")
            else:
                modules[index].append(f"{prefix}{name}")
                seen.update(own)

    visit(model, "")
    stages: list[Stage] = []
    for index, paths in modules.items():
        name = names[index] if names else (*paths, *parameters[index])[0]
        stages.append(Stage(name if stages else _STEM, tuple(paths), tuple(parameters[index])))
    check_stages(model, stages)
    return tuple(stages)


def check_stages(model: nn.Module, stages: Sequence[Stage]) -> None:
    """Check that the stages together own every parameter exactly once.

    Raises:
        BackboneError: Some parameter belongs to no stage or to two.
    """
    counts = {id(parameter): 0 for parameter in model.parameters()}
    for stage in stages:
        owned = [model.get_parameter(name) for name in stage.parameters]
        for path in stage.modules:
            owned.extend(model.get_submodule(path).parameters())
        for parameter in owned:
            counts[id(parameter)] += 1
    wrong = [name for name, parameter in model.named_parameters() if counts[id(parameter)] != 1]
    if wrong:
        raise BackboneError(
            f"{type(model).__name__}: {len(wrong)} parameters belong to no stage or to two: "
            f"{', '.join(wrong[:10])}. Every parameter must belong to exactly one."
        )
