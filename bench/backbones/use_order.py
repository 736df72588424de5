"""Stages by the order in which a forward pass uses parameters; knows no library of models.

Most models define their modules in the order in which they run, and stages go by definition. Some
do not: a table of relative positions defined behind the layers is used in all of them, a final norm
defined before them is used last. Where the two orders differ, use decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bench.backbones.stages import stages_of
from bench.interfaces import Stage


class UsesRecorder(TorchFunctionMode):
    """Inside of it, the parameters of a module are noted when they are first computed with.

    Args:
        module: Whose parameters are watched, wherever they are used.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._names = {id(parameter): name for name, parameter in module.named_parameters()}
        self._used: dict[str, None] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Parameters by name, in the order of their first use."""
        return tuple(self._used)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch and note the parameters it was given."""
        result = func(*args, **(kwargs or {}))
        made = {id(leaf) for leaf in _leaves(result) if isinstance(leaf, Tensor)}
        # To ask a parameter for its dtype, or to rescale it in place, is no use of it.
        if made:
            given = {id(leaf): None for leaf in _leaves([args, kwargs or {}])}
            self._used |= {
                self._names[i]: None for i in given if i in self._names and i not in made
            }
        return result


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, Mapping):
        yield from _leaves(list(value.values()))
    else:
        yield value


def order_by_use(
    model: nn.Module, stages: tuple[Stage, ...], uses: Sequence[str]
) -> tuple[Stage, ...]:
    """Return stages in which nothing is used before an earlier stage is done with.

    Stages that are so already stay as they are. Else each keeps the block it is named by, and what
    lies outside of blocks goes where it is first used: before the first block to the stem, inside a
    block to that block, between two as in `stages`, behind the last to the last stage. Blocks that
    do not run one after the other are no stages: the model is a single one.

    Args:
        model: Whose stages they are.
        stages: Together they own every parameter once.
        uses: Names of parameters in the order of their first use; those never used stay.
    """
    owner = _owners(model, stages)
    if _is_ascending([owner[name] for name in uses]):
        return stages
    blocks = [_block_of(name, stages) for name in uses]
    found = [block for block in blocks if block]
    if not _is_ascending(found) or set(found) != set(range(1, len(stages))):
        return stages_of(model, dict.fromkeys(owner, 0))
    weights = {name for name, parameter in model.named_parameters() if parameter.ndim > 1}
    owner |= _place(uses, blocks, weights)
    return stages_of(model, owner, [stage.name for stage in stages])


def _is_ascending(numbers: Sequence[int]) -> bool:
    return all(one <= other for one, other in pairwise(numbers))


def _owners(model: nn.Module, stages: Sequence[Stage]) -> dict[str, int]:
    """Return the index of the stage of each parameter, by name."""
    of_parameter: dict[int, int] = {}
    for index, stage in enumerate(stages):
        for path in stage.modules:
            of_parameter |= {id(p): index for p in model.get_submodule(path).parameters()}
        of_parameter |= {id(model.get_parameter(name)): index for name in stage.parameters}
    return {name: of_parameter[id(p)] for name, p in model.named_parameters()}


def _block_of(name: str, stages: Sequence[Stage]) -> int:
    """Return the index of the stage in whose block a parameter lies; 0 for none."""
    blocks = enumerate(stages[1:], start=1)
    return next((i for i, s in blocks if name == s.name or name.startswith(f"{s.name}.")), 0)


def _place(uses: Sequence[str], blocks: Sequence[int], weights: set[str]) -> dict[str, int]:
    """Return the stage of every use.

    Args:
        uses: Names of parameters in the order of their first use.
        blocks: Of each, the index of its block; 0 outside of blocks.
        weights: Names of tensors with two dimensions or more, which begin a transition.
    """
    owner: dict[str, int] = {}
    current, is_transition = 0, False
    for place, (name, block) in enumerate(zip(uses, blocks, strict=True)):
        is_transition = not block and (is_transition or name in weights)
        current = block or current
        following = next((later for later in blocks[place:] if later), current)
        owner[name] = following if current and is_transition else current
    return owner
