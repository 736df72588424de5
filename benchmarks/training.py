"""One adaptation by gradient steps, timed by phase, and the bare loop it is held against."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.datasets.prepare import PreparedData
from bench.interfaces import Adapted, Backbone, Split, Strategy
from bench.numerics import apply_plan, autocast, prepare_inputs
from bench.record import NumericsPlan
from bench.spec import BackboneSpec, DatasetSpec, TrainingSpec
from bench.strategies.inputs import normalise
from bench.strategies.schedule import rate_factor
from benchmarks import tasks
from benchmarks.measure import Timing, timed

BATCH_SIZE = 64


@dataclass(frozen=True)
class Setup:
    """A backbone at a size, its data cut to train and val examples, and a cache."""

    backbone: Backbone
    dataset: DatasetSpec
    data: PreparedData
    runtime: tasks.BenchRuntime

    @property
    def num_classes(self) -> int:
        """Classes."""
        return len(self.data.info.class_names)

    @property
    def name(self) -> str:
        """For the table."""
        label = self.backbone.info.name.partition("/")[2]
        return f"{label}, {self.backbone.preprocessing.image_size} px"


def set_up(
    spec: BackboneSpec, image_size: int, train_examples: int, runtime: tasks.BenchRuntime
) -> Setup:
    """Return a setup on mnist-5k: 80% of the examples train, 20% are val."""
    backbone = tasks.load_backbone(spec, image_size)
    dataset = DatasetSpec(name="mnist-5k", train_examples=train_examples)
    return Setup(backbone, dataset, tasks.prepare(backbone, dataset, runtime), runtime)


@dataclass(frozen=True)
class Adaptation:
    """What one adaptation gave and took.

    Attributes:
        seconds: Wall seconds by phase; a phase holds those inside it.
        timing: Of the whole.
    """

    adapted: Adapted
    seconds: dict[str, float]
    timing: Timing


def adapt(
    setup: Setup, strategy: Strategy, spec: TrainingSpec, *, with_val: bool = True
) -> Adaptation:
    """Adapt a copy of the backbone from its first weights and an empty run; plans stay known."""
    setup.runtime.forget(*(kind for kind in _kinds(setup) if not kind.startswith("numerics")))
    fresh = replace(setup.backbone, module=copy.deepcopy(setup.backbone.module))
    task = tasks.make_task(fresh, setup.data, setup.runtime, with_val=with_val)
    found: list[Adapted] = []
    timing = timed(lambda: found.append(strategy.adapt(task, spec)))
    return Adaptation(found[0], dict(setup.runtime.seconds), timing)


def _kinds(setup: Setup) -> list[str]:
    folder = setup.runtime.root / "runs"
    return [kind.name for scope in folder.glob("*") for kind in scope.iterdir()]


class BareModel(nn.Module):
    """Inputs -> logits, as one writes it by hand."""

    def __init__(self, body: nn.Module, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(feature_dim, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits, shape (B, K), float32."""
        features = self.body(inputs)
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.head(features.float())
        return logits


@dataclass(frozen=True)
class BareLoop:
    """A hand-written training loop on inputs in memory, with the same numerics and update.

    Attributes:
        inputs: As the model takes them, float32, already in the plan's memory format.
        labels: Class indices.
    """

    model: BareModel
    inputs: Tensor
    labels: Tensor
    plan: NumericsPlan
    setting: TrainingSpec

    def run(self, epochs: int) -> None:
        """Train on batches in a new order every epoch; gradients are clipped as bench's are."""
        trained = [value for value in self.model.parameters() if value.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=True)
        steps = -(-len(self.labels) // BATCH_SIZE) * epochs
        step = 0
        for _ in range(epochs):
            for part in torch.randperm(len(self.labels)).split(BATCH_SIZE):
                for group in optimizer.param_groups:
                    group["lr"] = 1e-3 * rate_factor(step, steps, self.setting)
                self._update(optimizer, trained, part)
                step += 1

    def _update(
        self, optimizer: torch.optim.Optimizer, trained: Sequence[nn.Parameter], part: Tensor
    ) -> None:
        optimizer.zero_grad(set_to_none=True)
        inputs = prepare_inputs(self.inputs[part], self.plan)
        with autocast(self.plan, inputs.device):
            logits = self.model(inputs)
        F.cross_entropy(logits, self.labels[part]).backward()
        if self.setting.clip_norm is not None:
            nn.utils.clip_grad_norm_(trained, self.setting.clip_norm)
        optimizer.step()


def normalised(setup: Setup, split: Split) -> Tensor:
    """Return the inputs of a whole split, float32, shape (N, 3, S, S)."""
    images = torch.from_numpy(tasks.images_of(split))
    return normalise(images, setup.backbone.preprocessing)


def bare_loop(setup: Setup, plan: NumericsPlan, setting: TrainingSpec) -> BareLoop:
    """Return the bare loop that trains everything."""
    module = copy.deepcopy(setup.backbone.module).train()
    model = BareModel(module, setup.backbone.info.feature_dim, setup.num_classes)
    inputs = prepare_inputs(normalised(setup, setup.data.train), plan)
    labels = torch.from_numpy(setup.data.train.labels)
    return BareLoop(apply_plan_to(model, plan), inputs, labels, plan, setting)


def apply_plan_to(model: BareModel, plan: NumericsPlan) -> BareModel:
    """Bring a model into the plan's memory format, in place, and return it."""
    apply_plan(model, plan)
    return model


def timed_phase(run: Callable[[], Adaptation], phase: str) -> Callable[[], Timing]:
    """Return a run that is taken at one phase's wall seconds, CPU seconds in proportion."""

    def measure() -> Timing:
        done = run()
        return done.timing.scaled(done.seconds[phase] / done.timing.wall_seconds)

    return measure
