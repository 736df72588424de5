"""Which part of a classifier trains, and proof that the rest did not; it knows no data.

Frozen means eval mode and no gradient. Modes are set from the whole module downwards by the paths
of the stages, never leaf by leaf: a norm layer may have children of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bench.errors import StrategyError
from bench.interfaces import Backbone, Stage
from bench.spec import StrategySpec
from bench.strategies.head import Classifier
from bench.strategies.rule import PLAIN, StepRule

_NAMED = 5


@dataclass(frozen=True)
class Trained:
    """A classifier with the part of its backbone that trains; its head always does.

    Attributes:
        stages: Stages that train; None is the whole backbone, dropout outside any stage included.
            Modules of a stage train whole, in train mode; parameters that it names by themselves
            train while the module that holds them stays in eval mode.
        rule: How its steps differ from plain ones.
    """

    classifier: Classifier
    stages: tuple[Stage, ...] | None = None
    rule: StepRule = PLAIN

    def in_epoch(self, epoch: int) -> Trained:
        """Return what trains in an epoch, counted from 1: all of it, or what its rule says."""
        if self.rule.stages_in is None:
            return self
        return replace(self, stages=self.rule.stages_in(epoch))

    def require_gradients(self) -> None:
        """Let gradients flow to the trained part only."""
        self.classifier.requires_grad_(self.stages is None)
        self.classifier.head.requires_grad_(True)
        for module in self._stage_modules():
            module.requires_grad_(True)
        for stage in self.stages or ():
            for name in stage.parameters:
                self.classifier.backbone.get_parameter(name).requires_grad_(True)

    def _stage_modules(self) -> Iterator[nn.Module]:
        for stage in self.stages or ():
            for path in stage.modules:
                yield self.classifier.backbone.get_submodule(path)

    def train(self) -> None:
        """Put the trained part in train mode and all else in eval mode."""
        self.classifier.train(self.stages is None)
        self.classifier.head.train()
        for module in self._stage_modules():
            module.train()

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters that receive gradients, backbone first."""
        return [value for value in self.classifier.parameters() if value.requires_grad]

    def rate_factors(self) -> dict[nn.Parameter, float]:
        """Return the share of the learning rate of each parameter that does not get all of it."""
        backbone = self.classifier.backbone
        factors = self.rule.rate_factors
        return {backbone.get_parameter(name): factor for name, factor in factors.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor that training may change, by name: parameters and buffers."""
        if self.stages is None:
            return all_tensors(self.classifier)
        named = {f"head.{name}": value for name, value in all_tensors(self.classifier.head).items()}
        backbone = self.classifier.backbone
        for stage in self.stages:
            for path in stage.modules:
                part = all_tensors(backbone.get_submodule(path))
                named |= {f"backbone.{path}.{name}": value for name, value in part.items()}
            for path in stage.parameters:
                named[f"backbone.{path}"] = backbone.get_parameter(path).detach()
        return named

    def frozen_tensors(self) -> dict[str, Tensor]:
        """Return every tensor that training must not change, by name."""
        trained = self.tensors()
        everything = all_tensors(self.classifier)
        return {name: value for name, value in everything.items() if name not in trained}


def all_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, saved with the weights or not, without gradient."""
    named: dict[str, Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: value.detach() for name, value in named.items()}


def last_stages(backbone: Backbone, count: int) -> tuple[Stage, ...]:
    """Return the last stages of a backbone, in order.

    Raises:
        StrategyError: The backbone has fewer, or nothing to adapt.
    """
    require_trainable(backbone, "partial")
    if count > len(backbone.stages):
        names = ", ".join(stage.name for stage in backbone.stages)
        raise StrategyError(
            f"partial: trainable_stages is {count}, but {backbone.info.name} has "
            f"{len(backbone.stages)} stages: {names}. Ask for {len(backbone.stages)} at most, or "
            "use full."
        )
    return backbone.stages[-count:]


def require_trainable(backbone: Backbone, strategy: str) -> None:
    """Refuse a backbone with nothing to adapt.

    Raises:
        StrategyError: It is one of those (``plain/…``).
    """
    if not backbone.trainable:
        raise StrategyError(
            f"{strategy}: {backbone.info.name} has nothing learned and nothing to train. "
            "Use linear_probe with it, or leave the pair out with exclude."
        )


def refuse_image_fields(backbone: Backbone, spec: StrategySpec) -> None:
    """Refuse fields that mean nothing for what the backbone takes.

    Raises:
        StrategyError: It takes texts or clips, and augmentation, mixing or views are on.
    """
    fields = spec.only_for_images()
    if fields and backbone.modality != "image":
        raise StrategyError(
            f"{spec.name}: {' and '.join(fields)} is for images alone, and {backbone.info.name} "
            f"takes '{backbone.modality}'. Drop it, or leave the pair out with exclude."
        )


def digest_tensors(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return a digest of each tensor's values, whatever their memory order and device."""
    return {name: _digest(tensor) for name, tensor in tensors.items()}


def _digest(tensor: Tensor) -> str:
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.blake2b(data.data, digest_size=16).hexdigest()


def check_frozen(before: Mapping[str, str], trained: Trained) -> None:
    """Assert that no frozen tensor changed by one bit.

    Args:
        before: Digests at the start, from `digest_tensors`, of at least these tensors.
        trained: Its frozen tensors as they are now.

    Raises:
        StrategyError: One did, named; the backbone changes its state in eval mode.
    """
    now = digest_tensors(trained.frozen_tensors())
    changed = sorted(name for name, digest in now.items() if before.get(name) != digest)
    if changed:
        more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        raise StrategyError(
            f"frozen tensors changed during training: {', '.join(changed[:_NAMED])}{more}. The "
            "backbone changes its state in eval mode; use full, or linear_probe."
        )


def copy_tensors(trained: Trained) -> Mapping[str, Tensor]:
    """Return copies of the trained tensors by name, on their device."""
    return {name: value.clone() for name, value in trained.tensors().items()}


@torch.no_grad()
def restore_tensors(trained: Trained, state: Mapping[str, Tensor]) -> None:
    """Write copies made by `copy_tensors` back into the model."""
    for name, value in trained.tensors().items():
        value.copy_(state[name])
