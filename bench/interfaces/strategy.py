"""What a strategy is given, what it gives back, and what it is; knows no test split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

from bench.interfaces.backbone import Backbone
from bench.interfaces.dataset import Split
from bench.interfaces.files import Emit
from bench.record import Effective, EpochPoint, NumericsPlan, Selection
from bench.spec import Numerics, StrategySpec

if TYPE_CHECKING:
    import torch

    from bench.artifacts import ArtifactCache


class Runtime(Protocol):
    """What a strategy needs of the machine it runs on.

    Attributes:
        compile: Whether numerics plans may compile.
        plans: ``forward`` or ``train`` -> the plan to reuse: that of the cell in the baseline that
            the run is compared with.
    """

    device: torch.device
    num_threads: int
    numerics: Numerics
    compile: bool
    plans: Mapping[str, NumericsPlan]
    cache: ArtifactCache
    emit: Emit

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Time a phase of the cell and announce it; phases may nest, each counts its own time."""
        ...


@dataclass(frozen=True)
class Refit:
    """What a strategy is to fit again with: the choice is made, and train holds what val held.

    Attributes:
        train: That the choice was made with.
        val: That it was made on.
        epoch: The one that was kept; None where no epoch was chosen.
    """

    train: Split
    val: Split
    epoch: int | None = None


@dataclass(frozen=True)
class Task:
    """All that a strategy may see. There is no test split here, by construction.

    Attributes:
        refit: Set where a setting that val chose is fitted again on train and val together: then
            `train` is both, `val` is None, and the spec has one value of each field.
    """

    backbone: Backbone
    train: Split
    val: Split | None
    num_classes: int
    seed: int
    runtime: Runtime
    refit: Refit | None = None

    def last_epoch(self, epochs: int) -> int:
        """Return the epoch after which training ends: the chosen one where it is fitted again.

        Args:
            epochs: Over which the schedule runs, in either case.
        """
        return epochs if self.refit is None else self.refit.epoch or epochs


@dataclass(frozen=True)
class Adapted:
    """A strategy's result, ready for evaluation and for the profile.

    Attributes:
        predict: Split -> logits, shape (N, K), float32, on the CPU.
        classifier: The deployable model, normalised inputs -> logits (B, K), or None.
        training_step: Makes the plain training step for the profile: a callable that takes
            normalised inputs and labels on the device; None if the strategy takes no steps.
        num_trainable_parameters: Parameters that received gradients or a fit, head included.
        num_parameters: Backbone and head.
    """

    predict: Callable[[Split], torch.Tensor]
    effective: Effective
    num_parameters: int
    num_trainable_parameters: int
    classifier: torch.nn.Module | None = None
    training_step: Callable[[], Callable[[torch.Tensor, torch.Tensor], None]] | None = None
    selection: Selection | None = None
    curve: tuple[EpochPoint, ...] = ()
    notes: tuple[str, ...] = field(default=())


class Strategy(Protocol):
    """One way to adapt a backbone; importable without torch.

    Attributes:
        Spec: The strategy's fields as they stand in a suite.
        version: Raised when the same spec gives other numbers.
        summary: One line: what trains, what it costs, when to use it.
        trains_backbone: Whether backbone parameters change; impossible for ``plain/…``.

    It may have ``imports``, names of modules that it needs beyond torch: they are imported before
    a cell's memory is first read.
    """

    Spec: ClassVar[type[StrategySpec]]
    version: ClassVar[int]
    summary: ClassVar[str]
    trains_backbone: ClassVar[bool]

    def needs_val(self, spec: StrategySpec) -> bool:
        """Return whether there is anything to choose on val."""
        ...

    def adapt(self, task: Task, spec: StrategySpec) -> Adapted:
        """Return the adapted model; everything is chosen on val.

        Raises:
            DivergedError: Every point of the grid diverged.
            StrategyError: The backbone or the data does not allow this strategy.
        """
        ...
