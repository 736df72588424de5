"""The profiles of a cell: which model and step are measured, on what, and shared under which key.

Cells of one run with the same backbone, shapes, numerics and way to train share a profile; it is
measured once, alone on its device. This module knows no scores and no record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch

from bench.datasets.prepare import PreparedData
from bench.environment import device_class
from bench.interfaces import Adapted, Backbone, Runtime
from bench.meters import HostMemory, device_lock
from bench.numerics import autocast, make_pass, prepare_inputs
from bench.profile import ProfileSettings, profile_inference, profile_training
from bench.record import InferProfile, InputPreprocessing, NumericsPlan, TrainProfile
from bench.spec import StrategySpec
from bench.strategies.inputs import normalise, typical_batch

_INFER_BATCH = {"cpu": 64, "cuda": 256}
# Fields of a strategy that say when or how fast it learns, not what a step does. Its name stays:
# strategies of equal fields may keep the statistics of batch norm, or may not.
_NOT_OF_A_STEP = frozenset(
    {"epochs", "learning_rate", "weight_decay", "momentum", "schedule", "warmup_fraction"}
    | {"label_smoothing", "augmentation", "mixup", "cutmix", "head_init"}
)


class CellProfiler:
    """Measures what a cell's adapted model costs, or recalls what the run has measured.

    Args:
        backbone: As loaded; names the architecture and the input size.
        data: Train gives inputs and labels, and one encoded example.
        runtime: Device, cache and numerics.
        settings: Budget, meters and lock of each measurement.
    """

    def __init__(
        self, backbone: Backbone, data: PreparedData, runtime: Runtime, settings: ProfileSettings
    ) -> None:
        self._backbone = backbone
        self._data = data
        self._runtime = runtime
        self._settings = settings

    def inference(self, adapted: Adapted) -> InferProfile | None:
        """Return the profile of the deployable model; None where the strategy makes none."""
        classifier, plan = adapted.classifier, adapted.effective.forward
        if classifier is None or plan is None:
            return None
        size = _INFER_BATCH[self._settings.device.type]

        def measure() -> InferProfile:
            inputs, _ = self._batch(size)
            return profile_inference(
                classifier,
                inputs,
                plan=plan,
                end_to_end=self._end_to_end(classifier, plan),
                settings=self._settings,
            )

        head = getattr(classifier, "kind", type(classifier).__name__)
        key = {"pass": "infer", "batch_size": size, "head": head}
        return InferProfile.model_validate(self._share(key, plan, measure))

    def training(self, adapted: Adapted, spec: StrategySpec) -> TrainProfile | None:
        """Return the profile of the plain training step; None for strategies that take none."""
        make_step, plan = adapted.training_step, adapted.effective.train
        size = adapted.effective.effective_batch_size
        if make_step is None or plan is None or size is None:
            return None

        def measure() -> TrainProfile:
            inputs, labels = self._batch(size)
            step = make_step()
            inputs = prepare_inputs(inputs, plan)
            if plan.compiled:
                # Compiles where training has not, which is part of no budget.
                step(inputs, labels)
            return profile_training(step, inputs, labels, settings=self._settings)

        fields = spec.model_dump(mode="json", exclude=set(_NOT_OF_A_STEP))
        key = {
            "pass": "train",
            "batch_size": size,
            "examples_per_pass": adapted.effective.batch_size,
            "trainable": adapted.num_trainable_parameters,
            "fields": fields,
        }
        return TrainProfile.model_validate(self._share(key, plan, measure))

    def _share(
        self,
        key: Mapping[str, Any],
        plan: NumericsPlan,
        measure: Callable[[], InferProfile | TrainProfile],
    ) -> Any:
        """Return a profile as JSON, recalled or measured; a disturbed one is this cell's alone."""
        in_force = plan.model_dump(include={"precision", "memory_format", "folded", "compiled"})
        whole = {
            **key,
            "weights": self._backbone.info.weights_digest,
            **self._shape(),
            "num_classes": len(self._data.info.class_names),
            "numerics": in_force,
            "threads": self._runtime.num_threads,
            "device": device_class(str(self._settings.device)),
            "budget": self._settings.budget_seconds,
        }
        with ExitStack() as alone:
            if not self._runtime.cache.holds("profile", whole, run_bound=True):
                # Taken before the artifact's own clock and lock: waiting for others is a phase of
                # its own, and no part of what a profile costs those who share it.
                root, device = self._runtime.cache.root, str(self._settings.device)
                with self._runtime.phase("wait_for_device"):
                    alone.enter_context(device_lock(root, device, exclusive=True))

            def make() -> Any:
                profile = measure()
                if profile.is_disturbed:
                    raise _DisturbedError(profile)
                return profile.model_dump(mode="json")

            try:
                return self._runtime.cache.json("profile", whole, make, run_bound=True)
            except _DisturbedError as disturbed:
                return disturbed.profile.model_dump(mode="json")

    def _shape(self) -> dict[str, int | None]:
        """Return what of the data decides the shape of a batch."""
        info = self._data.info
        if info.typical_length is None:
            return {"image_size": info.image_size}
        return {"length": info.typical_length}

    def _batch(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return train inputs of typical length, and labels, repeated to fill a batch."""
        train, device = self._data.train, self._settings.device
        positions = np.resize(np.arange(len(train)), size)
        inputs = typical_batch(train, positions, device, self._backbone.preprocessing)
        return inputs, torch.from_numpy(train.labels[positions]).to(device)

    def _end_to_end(self, classifier: torch.nn.Module, plan: NumericsPlan) -> Any:
        example, device = self._data.example, self._settings.device
        # Not compiled: a graph is made for the throughput batch alone.
        forward = make_pass(classifier, plan.model_copy(update={"compiled": False}))

        def run() -> None:
            inputs = to_inputs(example(), self._backbone.preprocessing, device)
            with torch.inference_mode(), autocast(plan, device):
                forward(prepare_inputs(inputs, plan)).argmax(dim=1).cpu()

        return run


class _DisturbedError(Exception):
    """The machine was busy: the next cell with this profile is to measure it again."""

    def __init__(self, profile: InferProfile | TrainProfile) -> None:
        super().__init__("the machine was busy")
        self.profile = profile


def to_inputs(
    raw: np.ndarray, preprocessing: InputPreprocessing, device: torch.device
) -> torch.Tensor:
    """Return one example, as `PreparedData.example` gives it, as a batch of one backbone input."""
    # Copied: a decoder may hand out memory that torch must not write to.
    return normalise(torch.tensor(raw)[None].to(device), preprocessing)


def profile_settings(runtime: Runtime, host: HostMemory, budget_seconds: float) -> ProfileSettings:
    """Return settings that hold the device alone and share the child's memory floor."""
    return ProfileSettings(
        device=runtime.device,
        budget_seconds=budget_seconds,
        host=host,
        lock_root=runtime.cache.root,
    )
