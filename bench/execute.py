"""Cell -> record, in a child process: the one place that sees backbone, data, strategy and meters.

The test split is handed to evaluation once, after the strategy has chosen everything on val.
Whatever goes wrong becomes a record with a status; the scores of such a record are absent.
"""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from bench import metrics, registry
from bench.artifacts import ArtifactCache
from bench.datasets.drawing import Draw
from bench.datasets.prepare import PreparedData, prepare_data
from bench.digests import digest_value
from bench.entry_points import Plugin
from bench.environment import collect_environment
from bench.errors import BackboneError, BenchError, DivergedError
from bench.files import default_cache_dir
from bench.interfaces import (
    Adapted,
    Backbone,
    BackboneSource,
    DatasetSource,
    Emit,
    Split,
    Strategy,
    Task,
)
from bench.measure import CellProfiler, profile_settings
from bench.meters import HostMemory, Phases, device_lock, is_out_of_memory
from bench.numerics import CompileSite, compiling_at
from bench.record import (
    Environment,
    Failure,
    NumericsPlan,
    PredictionSet,
    Recalled,
    Record,
    Scores,
    Status,
)
from bench.spec import Job
from bench.strategies.refit import describe_refit, refit_task, settle

KEY_VERSION = 1
"""Raised when the same cell, on the same bytes, gives other numbers because this code changed."""


_OF_AN_END = ("test", "val", "selection", "curve", "refit", "predictions", "infer_profile")
"""Fields of a record that only a cell which ended well has."""


class CellRuntime:
    """What a strategy needs of the machine: device, cache, phases. See `interfaces.Runtime`."""

    def __init__(self, job: Job, emit: Emit) -> None:
        self.device = torch.device(job.device)
        self.num_threads = job.num_threads
        self.numerics = job.cell.numerics
        self.compile = job.cell.compile
        self.plans: Mapping[str, NumericsPlan] = {
            name: NumericsPlan.model_validate_json(text) for name, text in job.plans.items()
        }
        self.cache = ArtifactCache(
            Path(job.cache_dir or default_cache_dir()), run_scope=job.run_scope
        )
        self.emit = emit
        self.current_phase: str | None = None
        self._phases = Phases(time.perf_counter, emit)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase and announce it; see `meters.Phases`."""
        self.current_phase = name
        with self._phases.phase(name):
            yield

    def seconds(self) -> dict[str, float]:
        """Return wall seconds by phase so far."""
        return self._phases.seconds()


def execute(job: Job, emit: Emit) -> Record | Recalled:
    """Return the record of a cell, whatever happens to it, or that the run holds it already.

    Args:
        job: The cell and what its child needs.
        emit: Takes progress for display.
    """
    attempt = _Attempt(job, emit)
    try:
        with compiling_at(attempt.compile_site):
            return attempt.run()
    except Exception as error:
        return attempt.failed(error)


def classify_failure(error: Exception) -> Status:
    """Return the status an exception stands for."""
    if is_out_of_memory(error):
        return Status.OOM
    return Status.DIVERGED if isinstance(error, DivergedError) else Status.ERROR


def _import_first(strategy: str) -> None:
    """Import what a strategy needs beyond torch, so that no import counts as a cell's memory."""
    try:
        modules = getattr(registry.strategy(strategy), "imports", ())
    except BenchError:
        return  # The cell says so, as its failure.
    for name in modules:
        with suppress(ImportError):  # The strategy says what to install.
            import_module(name)


class _Attempt:
    """One try at a cell; fields of the record gather as they become known."""

    def __init__(self, job: Job, emit: Emit) -> None:
        self.job = job
        self.cell = job.cell
        _import_first(job.cell.strategy.name)
        self.host = HostMemory()
        self.began = time.perf_counter()
        self.plugins: Mapping[str, Plugin] = {}
        self.fields: dict[str, Any] = {"started_at": datetime.now(UTC), "key": None}
        self.runtime = CellRuntime(job, emit)
        self._class_names: tuple[str, ...] = ()
        self.compile_site = CompileSite(self.runtime.phase, self.runtime.cache.root / "inductor")

    def run(self) -> Record | Recalled:
        torch.set_num_threads(self.job.num_threads)
        if self.runtime.device.type == "cuda":
            # Calls that name no device go to the current one, which is not ours by default.
            torch.cuda.set_device(self.runtime.device)
        torch.manual_seed(self.cell.seed)
        self.plugins = registry.plugins_of(self.cell)
        self.fields["environment"] = self._environment()
        strategy = registry.strategy(self.cell.strategy.name)
        backbone = self._load_backbone()
        data = self._prepare_data(backbone, strategy)
        backbone = data.backbone
        key = self._identify(backbone, data, strategy)
        if key in self.job.known_keys:
            return Recalled(request_key=self.job.request_key, key=key)
        adapted = self._adapt(backbone, data, strategy)
        self._profile(backbone, data, adapted)
        self._note(self.compile_site.failures)
        return self._record(Status.OK)

    def _environment(self) -> Environment:
        """Return the machine and its packages, the distributions of this cell's plugins too."""
        here = collect_environment(self.job.device, Path(self.job.project_dir))
        versions = {plugin.distribution: plugin.version for plugin in self.plugins.values()}
        return here.model_copy(update={"packages": here.packages | versions})

    def _note(self, notes: Sequence[str]) -> None:
        effective = self.fields["effective"]
        update = {"notes": (*effective.notes, *dict.fromkeys(notes))}
        self.fields["effective"] = effective.model_copy(update=update)

    def _fetch(self, source: BackboneSource | DatasetSource, spec: Any) -> None:
        """Download what the cell lacks, as a phase of its own.

        Where there are files all the same, it does without what cannot be had, or says so itself.
        """
        fetch, located = registry.fetch_method(source), source.locate(spec)
        if fetch is None or not located.missing:
            return
        with self.runtime.phase("download"):
            try:
                fetch(spec, self.runtime.emit)
            except BenchError:
                if not located.files:
                    raise

    def _load_backbone(self) -> Backbone:
        source = registry.backbone_source(self.cell.backbone.name)
        self._fetch(source, self.cell.backbone)
        with self.runtime.phase("load_backbone"):
            backbone = source.load(
                self.cell.backbone, image_size=self.cell.image_size, seed=self.cell.seed
            )
            backbone.module.to(self.runtime.device)
            if "backbones" in self.plugins:
                backbone = _with_origin(backbone, self.plugins["backbones"])
        self.fields |= {"backbone": backbone.info, "preprocessing": backbone.preprocessing}
        return backbone

    def _uses_val(self, strategy: Strategy) -> bool:
        refits = self.cell.dataset.refit is not None
        return refits or strategy.needs_val(self.cell.strategy)

    def _prepare_data(self, backbone: Backbone, strategy: Strategy) -> PreparedData:
        cell = self.cell
        self._fetch(registry.dataset_source(cell.dataset.name), cell.dataset)
        with self.runtime.phase("load_data"):
            data = prepare_data(
                cell.dataset,
                draw=Draw(cell.split_seed, cell.seed, cell.fold, self._uses_val(strategy)),
                backbone=backbone,
                cache=self.runtime.cache,
                emit=self.runtime.emit,
            )
        data.backbone.module.to(self.runtime.device)
        self.fields |= {"data": data.info, "backbone": data.backbone.info}
        self.fields["preprocessing"] = data.backbone.preprocessing
        return data

    def _identify(self, backbone: Backbone, data: PreparedData, strategy: Strategy) -> str:
        """Return the key: a versioned hash of all that can change the numbers, part by part."""
        spec = self.cell.strategy
        splits = {name: split.ids_digest for name, split in data.info.splits.items()}
        parts = {
            "key_version": str(KEY_VERSION),
            "weights": backbone.info.weights_digest,
            "dataset": self._stamped("datasets", data.info.fingerprint),
            "splits": digest_value(splits),
            "preprocessing": digest_value(backbone.preprocessing.model_dump(mode="json")),
            "strategy": digest_value(spec.model_dump(mode="json")),
            "strategy_version": self._stamped(
                "strategies", f"{spec.name} {strategy.version}{spec.amendment()}"
            ),
            "seed": str(self.cell.seed),
            "numerics": self.cell.numerics.value,
        }
        if self.cell.compile:
            parts["compile"] = "true"
        if self.cell.dataset.refit is not None:
            parts["refit"] = self.cell.dataset.refit
        self.fields |= {"key_parts": parts, "key": digest_value(parts)}
        return str(self.fields["key"])

    def _stamped(self, kind: str, value: str) -> str:
        """Return a part of the key with the distribution that it comes from, where not bench."""
        plugin = self.plugins.get(kind)
        return value if plugin is None else f"{value} ({plugin.origin})"

    def _adapt(self, backbone: Backbone, data: PreparedData, strategy: Strategy) -> Adapted:
        self._class_names = data.info.class_names
        task = Task(
            backbone=backbone,
            train=data.train,
            val=data.val,
            num_classes=len(data.info.class_names),
            seed=self.cell.seed,
            runtime=self.runtime,
        )
        with self._sharing_device():
            adapted = self._choose(task, strategy)
            if self.cell.dataset.refit is not None:
                adapted = self._refit(task, strategy, adapted)
            assert adapted is not None
            self._evaluate(adapted, data.test, "test")
        self.fields |= {
            "num_parameters": adapted.num_parameters,
            "num_trainable_parameters": adapted.num_trainable_parameters,
            "effective": adapted.effective,
        }
        return adapted

    def _sharing_device(self) -> Any:
        return device_lock(self.runtime.cache.root, self.job.device, exclusive=False)

    def _choose(self, task: Task, strategy: Strategy) -> Adapted | None:
        """Return the model that val chose; None where it is fitted again and nothing is chosen."""
        spec = self.cell.strategy
        if self.cell.dataset.refit is not None and not strategy.needs_val(spec):
            return None
        with self.runtime.phase("adapt"):
            adapted = strategy.adapt(task, spec)
        if task.val is not None:
            self._evaluate(adapted, task.val, "val")
        self.fields |= {"selection": adapted.selection, "curve": adapted.curve}
        return adapted

    def _refit(self, task: Task, strategy: Strategy, chosen: Adapted | None) -> Adapted:
        """Return the strategy fitted again on train and val, from the weights as loaded."""
        spec, epoch = self.cell.strategy, None
        if chosen is not None:
            spec, epoch = settle(spec, chosen.selection)
        again = refit_task(task, epoch, chosen=chosen is not None)
        if chosen is not None and strategy.trains_backbone:
            # Gives back the memory of the weights, whoever still holds the module.
            task.backbone.module.to("meta")
            again = replace(again, backbone=self._reload_backbone())
        with self.runtime.phase("refit"):
            adapted = strategy.adapt(again, spec)
        self.fields["refit"] = describe_refit(again, adapted)
        return adapted

    def _reload_backbone(self) -> Backbone:
        digest = self.fields["backbone"].weights_digest
        backbone = self._load_backbone()
        if backbone.info.weights_digest != digest:
            raise BackboneError(
                f"{backbone.info.name}: its weights are others than when the cell began "
                f"({backbone.info.weights_digest[:12]}, before {digest[:12]}): something wrote to "
                "their files. Run the cell again."
            )
        return backbone

    def _evaluate(self, adapted: Adapted, split: Split, name: Literal["val", "test"]) -> None:
        with self.runtime.phase("evaluate"):
            self.fields[name], packed = _score(adapted, split, name, self._class_names)
        self.fields["predictions"] = (*self.fields.get("predictions", ()), packed)

    def _profile(self, backbone: Backbone, data: PreparedData, adapted: Adapted) -> None:
        gc.collect()
        settings = profile_settings(self.runtime, self.host, self.job.limits.profile_time)
        profiler = CellProfiler(backbone, data, self.runtime, settings)
        try:
            with self.runtime.phase("profile"):
                self.fields["infer_profile"] = profiler.inference(adapted)
                self.fields["train_profile"] = profiler.training(adapted, self.cell.strategy)
        except Exception as error:
            if classify_failure(error) is not Status.OOM:
                raise
            # The scores are measured and stay; what a profile would say is absent, and why.
            self._note([f"the profile ran out of memory: {error}"])

    def failed(self, error: Exception) -> Record:
        """Return the record of a cell that did not end well; what it is, not its scores, stays."""
        for field in _OF_AN_END:
            self.fields.pop(field, None)
        text = "" if isinstance(error, BenchError) else traceback.format_exc()
        self.fields["failure"] = Failure(
            kind=type(error).__name__,
            message=str(error) or type(error).__name__,
            traceback=text,
            phase=self.runtime.current_phase,
        )
        return self._record(classify_failure(error))

    def _record(self, status: Status) -> Record:
        wall = time.perf_counter() - self.began
        artifacts = self.runtime.cache.ledger.uses()
        reused = sum(use.seconds for use in artifacts if not use.built)
        return Record(
            request_key=self.job.request_key,
            run_id=self.job.run_id,
            cell=self.cell,
            status=status,
            seconds=self.runtime.seconds(),
            wall_seconds=wall,
            standalone_seconds=wall + reused if status is Status.OK else None,
            host_peak_bytes=self.host.peak_above_floor(),
            artifacts=artifacts,
            **self.fields,
        )


def _with_origin(backbone: Backbone, plugin: Plugin) -> Backbone:
    """Return a plugin's backbone known by the plugin's version too.

    What is stored of its passes is found by the digest of its weights; the code that runs them may
    differ between two versions of the plugin.
    """
    digest = digest_value([backbone.info.weights_digest, plugin.origin])
    info = backbone.info.model_copy(update={"weights_digest": digest})
    return replace(backbone, info=info)


def _score(
    adapted: Adapted, split: Split, name: Literal["val", "test"], class_names: tuple[str, ...]
) -> tuple[Scores, PredictionSet]:
    logits = adapted.predict(split).numpy()
    if not np.isfinite(logits).all():
        raise DivergedError(f"the adapted model's outputs on {name} are not finite")
    scores = metrics.score_logits(logits, split.labels, class_names)
    packed = metrics.pack_predictions(name, split.ids, split.ids_digest, logits, split.labels)
    return scores, packed
