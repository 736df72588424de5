"""`scratch`: random weights train whole, the control for transfer; knows no loop and no data."""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveFloat

from bench.errors import StrategyError
from bench.interfaces import Adapted, Task
from bench.spec import Grid, StrategySpec, TrainingSpec
from bench.strategies.stepping import SteppingStrategy


class ScratchSpec(TrainingSpec):
    """Fields of `scratch`.

    The default rate is higher than `full`'s, since random weights have far to go; epochs, batch
    size and all else are the same, and so is the budget.
    """

    from_random: ClassVar[bool] = True

    name: str = "scratch"
    learning_rate: PositiveFloat | Grid[PositiveFloat] = 1e-3


class Scratch(SteppingStrategy):
    """Train the architecture from random weights, with the budget that `full` has.

    Its cells have ``weights: random``, whatever the suite says of the backbone: no pretrained
    weights are read, or asked of the network, and tables say "(random)" beside the name.

    Source: He et al., 2019, Rethinking ImageNet Pre-training (the control; there with a longer
    budget, here with the same).
    """

    Spec: ClassVar[type[StrategySpec]] = ScratchSpec
    summary: ClassVar[str] = (
        "trains the backbone from random weights with a new head, at the cost of full: the "
        "control that says what transfer was worth; never the one to deploy on small data"
    )

    def adapt(self, task: Task, spec: StrategySpec) -> Adapted:
        """Return the random backbone trained whole; see `Strategy.adapt`.

        Raises:
            StrategyError: The backbone has weights that were learned.
        """
        from bench.strategies.freeze import require_trainable
        from bench.strategies.gradient import adapt_by_gradient

        assert isinstance(spec, ScratchSpec)
        require_trainable(task.backbone, spec.name)
        info = task.backbone.info
        if not info.weights_source.startswith("random"):
            raise StrategyError(
                f"scratch: {info.name} was loaded with learned weights ({info.weights_source}), "
                "so it would be no control. Give the cell's backbone weights: random; a suite "
                "that is planned does."
            )
        return adapt_by_gradient(task, spec)
