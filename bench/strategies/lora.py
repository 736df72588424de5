"""`lora`: low-rank adapters and a new head train, the weights do not; knows no loop and no data."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import PositiveFloat, PositiveInt

from bench.errors import StrategyError
from bench.interfaces import Adapted, Stage, Task
from bench.spec import Grid, StrategySpec, TrainingSpec
from bench.strategies.stepping import SteppingStrategy

if TYPE_CHECKING:
    from bench.strategies.adapters import Adapters
    from bench.strategies.gradient import Recipe
    from bench.strategies.head import Classifier


class LoraSpec(TrainingSpec):
    """Fields of `lora`; adapters take a higher rate than the weights they stand for.

    Attributes:
        rank: Of each adapter.
        alpha: An adapter's output is scaled by alpha / rank.
    """

    name: str = "lora"
    learning_rate: PositiveFloat | Grid[PositiveFloat] = 2e-3
    rank: PositiveInt = 8
    alpha: PositiveFloat = 16.0


class Lora(SteppingStrategy):
    """Train a low-rank addition to layers whose weights stay, through the library peft.

    Adapters sit at the linear layers of attention where a backbone has them (ViT, BERT), else at
    every linear layer and every ungrouped convolution. The backbone is in eval mode. For
    predictions and for the inference profile they are merged into the weights, as they would be
    deployed, so that inference costs what the plain model's does; the training profile has them
    apart, as they train.

    Source: Hu et al., 2022, LoRA: Low-Rank Adaptation of Large Language Models.
    """

    Spec: ClassVar[type[StrategySpec]] = LoraSpec
    imports: ClassVar[tuple[str, ...]] = ("peft",)
    summary: ClassVar[str] = (
        "trains low-rank additions (rank, alpha) to attention or convolutions with a new head, "
        "merged for inference: memory of few weights, time near full; for large transformers"
    )

    def adapt(self, task: Task, spec: StrategySpec) -> Adapted:
        """Return the backbone with trained adapters, merged; see `Strategy.adapt`.

        Raises:
            StrategyError: The package peft is not installed, or no layer can take an adapter.
        """
        from bench.strategies.adapters import import_peft
        from bench.strategies.freeze import require_trainable
        from bench.strategies.gradient import adapt_by_gradient

        assert isinstance(spec, LoraSpec)
        require_trainable(task.backbone, spec.name)
        import_peft()
        return adapt_by_gradient(task, spec, _make_recipe(task, spec))


def _make_recipe(task: Task, spec: LoraSpec) -> Recipe:
    from bench.strategies.gradient import Recipe

    attached: list[Adapters] = []

    def attach(classifier: Classifier) -> None:
        attached.append(_attach(task, spec))

    def stages_of(setting: TrainingSpec) -> tuple[Stage, ...]:
        return (Stage("adapters", (), attached[0].parameters()),)

    return Recipe(
        stages_of=stages_of,
        without_prefix="adapters train in all of it",
        attach=attach,
        deploy=lambda: attached[0].merge(),
        resume=lambda: attached[0].put_back(),
    )


def _attach(task: Task, spec: LoraSpec) -> Adapters:
    from bench.strategies.adapters import Adapters, find_targets
    from bench.strategies.gradient import first_batch
    from bench.strategies.loop import seeded

    module, device = task.backbone.module.eval(), task.runtime.device
    inputs, _ = first_batch(task, 1)
    targets = find_targets(module, lambda: module(inputs))
    if not targets:
        raise StrategyError(
            f"lora: {task.backbone.info.name} has no linear layer and no ungrouped convolution "
            "that could take an adapter. Use bias_only, norm_only or full, or leave the pair out "
            "with exclude."
        )
    with seeded(task.seed, device):
        adapters = Adapters(module, targets, spec.rank, spec.alpha)
    module.to(device)
    return adapters
