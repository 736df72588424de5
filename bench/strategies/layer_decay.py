"""`layer_decay`: all of a backbone trains, the lower a stage the slower; knows no loop, no data."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, PositiveFloat

from bench.interfaces import Adapted, Stage, Task
from bench.spec import Grid, StrategySpec, TrainingSpec
from bench.strategies.stepping import SteppingStrategy

Decay = Annotated[float, Field(gt=0, le=1)]


class LayerDecaySpec(TrainingSpec):
    """Fields of `layer_decay`.

    The default rate is above `full`'s, since most of the backbone gets a fraction of it.

    Attributes:
        decay: Factor from a stage's learning rate to that of the stage below it, in (0, 1]; the
            head has the whole rate, the last stage `decay` of it. 0.65 to 0.75 for base-size
            transformers, 0.8 to 0.9 for deeper ones.
    """

    name: str = "layer_decay"
    learning_rate: PositiveFloat | Grid[PositiveFloat] = 1e-3
    decay: Decay | Grid[Decay] = 0.75


class LayerDecay(SteppingStrategy):
    """Fine-tune everything, with a learning rate that falls from the head to the input.

    Source: Clark et al., 2020, ELECTRA, appendix A.2; Bao et al., 2022, BEiT, appendix (values for
    vision transformers). Stages stand for layers: in a transformer they are its blocks.
    """

    Spec: ClassVar[type[StrategySpec]] = LayerDecaySpec
    summary: ClassVar[str] = (
        "trains the whole backbone, lower stages at a smaller rate: the cost of full; for "
        "transformers and for little data, where it is often better"
    )

    def adapt(self, task: Task, spec: StrategySpec) -> Adapted:
        """Return the backbone trained whole at rates by stage; see `Strategy.adapt`."""
        from bench.strategies.freeze import require_trainable
        from bench.strategies.gradient import Recipe, adapt_by_gradient
        from bench.strategies.rule import StepRule

        assert isinstance(spec, LayerDecaySpec)
        require_trainable(task.backbone, spec.name)

        def rule_of(setting: TrainingSpec) -> StepRule:
            assert isinstance(setting, LayerDecaySpec) and isinstance(setting.decay, float)
            return StepRule(rate_factors=rate_factors(task, setting.decay))

        return adapt_by_gradient(task, spec, Recipe(rule_of=rule_of))


def rate_factors(task: Task, decay: float) -> dict[str, float]:
    """Return the share of the learning rate of each parameter of the backbone, by name.

    Args:
        task: Its backbone's stages own every parameter once.
        decay: From one stage to the one below, in (0, 1].
    """
    stages = task.backbone.stages
    return {
        name: decay ** (len(stages) - place)
        for place, stage in enumerate(stages)
        for name in _names(task, stage)
    }


def _names(task: Task, stage: Stage) -> list[str]:
    module = task.backbone.module
    inside = [
        f"{path}.{name}"
        for path in stage.modules
        for name, _ in module.get_submodule(path).named_parameters()
    ]
    return [*inside, *stage.parameters]
