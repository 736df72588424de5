"""How a strategy's steps differ from plain ones; it knows no optimiser and no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.interfaces import Stage


@dataclass(frozen=True)
class StepRule:
    """What a training does beside the plain step; by default nothing.

    Attributes:
        rate_factors: Share of the learning rate that a parameter of the backbone gets, by its
            name; those not named, and the head, get all of it.
        add_gradients: Called once per update, after the gradients of the whole batch are there
            and unscaled, before they are clipped; adds to them in place.
        stages_in: Epoch, from 1 -> the stages that train in it, of those that train at all; None
            trains the same in every epoch.
        class_weights: By how much the loss of an example counts, by class, shape (K,); None
            weighs all alike.
    """

    rate_factors: Mapping[str, float] = field(default_factory=dict)
    add_gradients: Callable[[], None] | None = None
    stages_in: Callable[[int], tuple[Stage, ...]] | None = None
    class_weights: tuple[float, ...] | None = None


PLAIN = StepRule()
