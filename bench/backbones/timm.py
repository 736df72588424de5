"""Backbones from timm: the hub, its local cache, a local folder, a checkpoint, or random weights.

It knows no dataset. Its crop is always the centre one; timm's `squash` and `border` are not made.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.backbones import hub
from bench.backbones.checks import check_choice, check_fields, unknown_name
from bench.catalogue import WeightsEntry, timm_catalogue
from bench.errors import BackboneError
from bench.interfaces import Backbone, Emit, HubFiles, Located, Missing
from bench.record import Preprocessing
from bench.spec import BackboneSpec
from bench.transfer.cache import torch_checkpoint_dir
from bench.transfer.tracking import silent

if TYPE_CHECKING:
    from torch import Tensor, nn

_LOCAL = "local-dir:"
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_LOCAL_FILES = (*_HUB_FILES, "pytorch_model.pth", "model.pth")
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
# The weights come from a file that is already found, so every other place is cleared.
_NO_PLACE = {
    "hf_hub_id": None,
    "hf_hub_filename": None,
    "url": None,
    "source": "",
    "custom_load": False,
}


@dataclass(frozen=True)
class _Plan:
    """One model to build.

    Attributes:
        model: Name for ``timm.create_model``.
        file: Weights; None for random ones.
        source: Where they come from, for people.
        is_checkpoint: The user's own file, whose classifier does not matter.
    """

    model: str
    file: Path | None
    source: str
    is_checkpoint: bool = False


class TimmSource:
    """``timm/<arch>.<tag>``, ``timm/<arch>`` (its default tag), ``timm/local-dir:<path>``."""

    prefix: ClassVar[str] = "timm"

    def names(self) -> Sequence[str]:
        """Return every name with pretrained weights, tag included, sorted."""
        return _names()

    def check(self, spec: BackboneSpec) -> str | None:
        """Return what is wrong with a spec, or None.

        An architecture without pretrained weights is right when the spec says where its weights
        come from.
        """
        if problem := check_fields(spec, "image"):
            return problem
        name = _model_name(spec)
        if name.startswith(_LOCAL):
            if spec.checkpoint or spec.revision:
                return f"'{spec.name}' has its weights in its folder: drop checkpoint and revision."
            folder = _local_folder(name)
            has_config = (folder / "config.json").is_file()
            return None if has_config else f"'{spec.name}': there is no {folder / 'config.json'}."
        catalogue = timm_catalogue()
        entry = catalogue.resolve(name)
        if entry is None and name.partition(".")[0] not in catalogue.architectures:
            return unknown_name(spec.name, self.names())
        if entry is None and "." in name:
            return unknown_name(spec.name, self.names())
        if entry is None and not spec.checkpoint and spec.weights != "random":
            return f"timm has no pretrained weights for '{spec.name}': give checkpoint, or weights."
        if spec.revision and entry is not None and entry.hub_id is None:
            return f"'{spec.name}' is a plain download without revisions: drop revision."
        return check_choice(spec)

    def locate(self, spec: BackboneSpec) -> Located:
        """Return the weights file, or what to download."""
        packages = ("timm", "torch")
        name = _model_name(spec)
        files: tuple[Path, ...] = ()
        missing: tuple[Missing, ...] = ()
        if name.startswith(_LOCAL):
            folder = _local_folder(name)
            weights = _find_local_weights(folder) if spec.weights != "random" else None
            files = (folder / "config.json", *([weights] if weights else []))
        elif spec.checkpoint:
            files = (Path(spec.checkpoint).expanduser(),)
        elif spec.weights != "random":
            entry = _entry(spec)
            file = _find(entry, spec.revision)
            files = (file,) if file else ()
            missing = () if file else (_missing(entry, spec.revision),)
        return Located(files=files, missing=missing, packages=packages)

    def fetch(self, spec: BackboneSpec, emit: Emit) -> None:
        """Download the weights where they are not here; see `interfaces.Fetching`."""
        if self.locate(spec).missing:
            _fetch(_entry(spec), spec.revision, emit)

    def load(self, spec: BackboneSpec, *, image_size: int | None, seed: int) -> Backbone:
        """Return the backbone; features are the input of timm's classifier, (B, num_features).

        The model is built with the classifier its weights were trained with, loaded strictly, and
        only then loses the classifier: no part that the weights do not cover can slip in.

        Args:
            spec: Must pass `check`.
            image_size: Height and width in pixels; None is the backbone's own. Position embeddings
                are resampled where the architecture supports it.
            seed: Draws the weights of ``weights: random``.

        Raises:
            WeightsMissingError: Not on disk, and downloads are forbidden here.
            TransferError: The download failed.
            WeightsMismatchError: Tensors that did not load, by name.
            BackboneError: The spec does not pass `check`, or the architecture cannot be used.
        """
        problem = self.check(spec)
        if problem:
            raise BackboneError(problem)
        from bench.backbones.assemble import Parts, assemble
        from bench.backbones.stages import timm_stages

        plan = _plan(spec, seed)
        module, config = _build(spec, plan, image_size, seed)
        _drop_classifier(module, spec.name)
        parts = Parts(
            module=module,
            own=_preprocessing(config, spec.name),
            stages=timm_stages(module),
            source=plan.source,
            licence=config.get("license"),
            declared_dim=_declared_dim(module),
            configuration=_local_arguments(plan.model),
        )
        return assemble(spec, parts, image_size=image_size)


@cache
def _names() -> tuple[str, ...]:
    return tuple(sorted(f"timm/{name}" for name in timm_catalogue().weights))


def _model_name(spec: BackboneSpec) -> str:
    return spec.name.partition("/")[2]


def _local_folder(name: str) -> Path:
    return Path(name.removeprefix(_LOCAL)).expanduser()


def _local_config(name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((_local_folder(name) / "config.json").read_text())
    return config


def _local_arguments(model: str) -> dict[str, Any] | None:
    """Return what a folder adds to its architecture, which no module may show."""
    return _local_config(model).get("model_args") if model.startswith(_LOCAL) else None


def _find_local_weights(folder: Path) -> Path | None:
    preferred = [folder / name for name in _LOCAL_FILES]
    others = [
        path
        for suffix in ("safetensors", "pth", "bin")
        for path in sorted(folder.glob(f"*.{suffix}"))
    ]
    return next((path for path in (*preferred, *others) if path.is_file()), None)


def _entry(spec: BackboneSpec) -> WeightsEntry:
    entry = timm_catalogue().resolve(_model_name(spec))
    if entry is None:
        raise BackboneError(f"timm has no pretrained weights for '{spec.name}'.")
    return entry


def _hub_files(entry: WeightsEntry) -> tuple[str, ...]:
    return (entry.filename,) if entry.filename else _HUB_FILES


def _wanted(entry: WeightsEntry, revision: str | None) -> HubFiles:
    return HubFiles(entry.hub_id or "", revision, first_of=_hub_files(entry))


def _find(entry: WeightsEntry, revision: str | None) -> Path | None:
    if entry.hub_id:
        return hub.find_hub_file(entry.hub_id, _hub_files(entry), revision)
    path = torch_checkpoint_dir() / hub.url_filename(entry.url or "")
    return path if path.is_file() else None


def _missing(entry: WeightsEntry, revision: str | None) -> Missing:
    if entry.hub_id:
        return hub.missing_from_hub(_wanted(entry, revision))
    return hub.missing_file(f"weights of timm/{entry.name}", entry.url or "")


def _plan(spec: BackboneSpec, seed: int) -> _Plan:
    """Return what to build, the weights fetched if need be."""
    name = _model_name(spec)
    if name.startswith(_LOCAL):
        folder = _local_folder(name)
        model = f"{_LOCAL}{folder}"
        if spec.weights == "random":
            return _Plan(model, None, f"random (seed {seed})")
        file = _find_local_weights(folder)
        if file is None:
            raise BackboneError(
                f"{spec.name}: no weights in {folder}; it should hold one of "
                f"{', '.join(_LOCAL_FILES)}."
            )
        return _Plan(model, file, f"file {file}")
    if spec.weights == "random":
        return _Plan(name, None, f"random (seed {seed})")
    if spec.checkpoint:
        file = hub.local_file(spec.checkpoint, name=spec.name)
        return _Plan(name, file, f"file {file}", is_checkpoint=True)
    entry = _entry(spec)
    file = _fetch(entry, spec.revision, silent)
    if entry.hub_id:
        return _Plan(entry.name, file, f"hub {entry.hub_id}@{_commit(file)}")
    return _Plan(entry.name, file, f"download {hub.describe_file(file)}")


def _commit(file: Path) -> str:
    """Return the commit of a file in the hub's cache."""
    parts = file.parts
    return parts[len(parts) - parts[::-1].index("snapshots")]


def _fetch(entry: WeightsEntry, revision: str | None, emit: Emit) -> Path:
    """Return the file of weights: from a cache, else downloaded into it."""
    found = _find(entry, revision)
    if found is not None:
        return found
    if not entry.hub_id:
        return hub.fetch_url(f"weights of timm/{entry.name}", entry.url or "", emit=emit)
    snapshot = hub.fetch_from_hub(_wanted(entry, revision), emit)
    return next(path for name in _hub_files(entry) if (path := snapshot / name).is_file())


def _build(
    spec: BackboneSpec, plan: _Plan, image_size: int | None, seed: int
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the model with classifier and its pretrained configuration."""
    import timm

    from bench.backbones.weights import explain_strict_failure, recorded_loads, seeded

    options: dict[str, Any] = {"pretrained": plan.file is not None}
    if image_size is not None and _takes_size(plan.model):
        options["img_size"] = image_size
    try:
        with seeded(seed), recorded_loads() as loads:
            if plan.is_checkpoint and plan.file:
                options["pretrained_cfg_overlay"] = {
                    **_NO_PLACE,
                    "label_offset": 0,
                    "file": None,
                    "state_dict": _with_classifier(plan.model, plan.file, options),
                }
            elif plan.file:
                options["pretrained_cfg_overlay"] = {**_NO_PLACE, "file": str(plan.file)}
            loads.clear()
            module = timm.create_model(plan.model, **options)
    except RuntimeError as error:
        raise explain_strict_failure(f"{spec.name} ({plan.source})", error) from error
    except (TypeError, ValueError, AssertionError) as error:
        size = "" if image_size is None else f" at {image_size} pixels"
        raise BackboneError(
            f"{spec.name}: timm cannot build it{size}: {type(error).__name__}: {error}"
        ) from error
    if plan.file:
        _check_loaded(loads, f"{spec.name} ({plan.source})")
    config = dict(module.pretrained_cfg)
    config.pop("state_dict", None)
    module.pretrained_cfg = module.default_cfg = config
    return module, config


def _check_loaded(loads: Sequence[str], source: str) -> None:
    from bench.backbones.weights import mismatch_error

    missing = [name for name in loads if name]
    if missing:
        raise mismatch_error(source, missing=missing)
    if not loads:
        raise BackboneError(f"{source}: timm built the model without loading its weights.")


def _takes_size(model: str) -> bool:
    """Return whether the architecture is built for one size, which then has to be stated."""
    import timm

    if model.startswith(_LOCAL):
        config = _local_config(model)
        return bool(config.get("pretrained_cfg", config).get("fixed_input_size"))
    return bool(timm.get_pretrained_cfg(model).fixed_input_size)


def _with_classifier(model: str, file: Path, options: dict[str, Any]) -> dict[str, Tensor]:
    """Return a checkpoint's tensors, its classifier replaced by a fresh one of the right shape.

    The classifier is dropped after loading; a checkpoint may lack it, or have one for other
    classes. No other tensor is forgiven.
    """
    import timm

    from bench.backbones.weights import read_state_dict

    state = read_state_dict(file)
    fresh = timm.create_model(model, **{**options, "pretrained": False})
    names = _classifier_tensors(fresh.pretrained_cfg)
    kept = {name: tensor for name, tensor in state.items() if name not in names}
    own = fresh.state_dict()
    return kept | {name: own[name] for name in names if name in own}


def _classifier_tensors(config: dict[str, Any]) -> tuple[str, ...]:
    classifiers = config.get("classifier") or ()
    modules = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    return tuple(f"{name}.{kind}" for name in modules for kind in ("weight", "bias"))


def _drop_classifier(module: nn.Module, name: str) -> None:
    """Remove the classifier, leaving nothing that was not there before.

    Raises:
        BackboneError: timm would put parameters in its place that no weights cover.
    """
    if not module.num_classes:
        return
    before = {id(parameter) for parameter in module.parameters()}
    module.reset_classifier(0)  # type: ignore[operator]
    fresh = [key for key, value in module.named_parameters() if id(value) not in before]
    if fresh:
        raise BackboneError(
            f"{name}: without its classifier the features would pass through weights that were "
            f"never loaded: {', '.join(fresh)}."
        )


def _declared_dim(module: nn.Module) -> int:
    """Return the width of the classifier's input, which a hidden layer may have changed."""
    width: Any = getattr(module, "head_hidden_size", None) or module.num_features
    return int(width)


def _preprocessing(config: dict[str, Any], name: str) -> Preprocessing:
    channels, height, width = config["input_size"]
    if channels != 3 or height != width:
        raise BackboneError(
            f"{name}: takes inputs of {channels} x {height} x {width}; only square RGB images fit."
        )
    interpolation = config.get("interpolation") or "bicubic"
    if interpolation not in _INTERPOLATIONS:
        raise BackboneError(
            f"{name}: resizes by '{interpolation}'. Known: {', '.join(_INTERPOLATIONS)}."
        )
    return Preprocessing(
        image_size=height,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=interpolation,
        crop_fraction=min(1.0, config.get("crop_pct") or 1.0),
    )
