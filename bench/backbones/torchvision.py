"""Backbones from torchvision's classification models; knows no dataset and no other library.

The feature of every model is the same thing: the input of its last linear layer. A model that ends
otherwise (SqueezeNet) is refused rather than cut somewhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.backbones import hub
from bench.backbones.checks import check_choice, check_fields, unknown_name
from bench.catalogue import WeightsEntry, torchvision_catalogue
from bench.errors import BackboneError
from bench.interfaces import Backbone, Emit, Located
from bench.record import Preprocessing
from bench.spec import BackboneSpec
from bench.transfer.cache import torch_checkpoint_dir
from bench.transfer.tracking import silent

if TYPE_CHECKING:
    from torch import Tensor, nn

_WITH_AUXILIARY = ("googlenet", "inception_v3")
_NO_LINEAR = ("squeezenet1_0", "squeezenet1_1")
_CLASSIFIERS = ("fc", "classifier", "head", "heads")


class TorchvisionSource:
    """``torchvision/<model>@<WEIGHTS>``; without ``@`` the model's ``DEFAULT`` weights."""

    prefix: ClassVar[str] = "torchvision"

    def names(self) -> Sequence[str]:
        """Return every model with each of its weights, sorted."""
        return _names()

    def check(self, spec: BackboneSpec) -> str | None:
        """Return what is wrong with a spec, or None."""
        if problem := check_fields(spec, "image"):
            return problem
        if torchvision_catalogue().resolve(_model_name(spec)) is None:
            return unknown_name(spec.name, self.names())
        if spec.name.partition("/")[2].partition("@")[0] in _NO_LINEAR:
            return f"'{spec.name}' has no linear classifier whose input could be its feature."
        if spec.revision:
            return f"'{spec.name}': torchvision's weights have no revisions: drop revision."
        return check_choice(spec)

    def locate(self, spec: BackboneSpec) -> Located:
        """Return the weights file under ``TORCH_HOME``, or what to download."""
        packages = ("torchvision", "torch")
        if spec.weights == "random":
            return Located(packages=packages)
        if spec.checkpoint:
            return Located(files=(Path(spec.checkpoint).expanduser(),), packages=packages)
        entry = _entry(spec)
        url = entry.url or ""
        path = torch_checkpoint_dir() / hub.url_filename(url)
        if path.is_file():
            return Located(files=(path,), packages=packages)
        missing = hub.missing_file(f"weights of torchvision/{entry.name}", url, entry.num_bytes)
        return Located(missing=(missing,), packages=packages)

    def fetch(self, spec: BackboneSpec, emit: Emit) -> None:
        """Download the weights where they are not here; see `interfaces.Fetching`."""
        if self.locate(spec).missing:
            _fetch(_entry(spec), emit)

    def load(self, spec: BackboneSpec, *, image_size: int | None, seed: int) -> Backbone:
        """Return the backbone; features are the input of the last linear layer, shape (B, D).

        Auxiliary heads are dropped with the classifier. Size, mean, standard deviation,
        interpolation and crop are those of the weights' own transforms.

        Args:
            spec: Must pass `check`.
            image_size: Height and width in pixels; None is the weights' own. The position
                embeddings of a ViT are resampled.
            seed: Draws the weights of ``weights: random``.

        Raises:
            WeightsMissingError: Not on disk, and downloads are forbidden here.
            TransferError: The download failed.
            WeightsMismatchError: Tensors that did not load, by name.
            BackboneError: The spec does not pass `check`, or the model cannot be used.
        """
        problem = self.check(spec)
        if problem:
            raise BackboneError(problem)
        from torchvision.models import get_model_weights

        from bench.backbones.assemble import Parts, assemble
        from bench.backbones.stages import torchvision_stages

        entry = _entry(spec)
        model, _, member = entry.name.partition("@")
        weights = get_model_weights(model)[member]
        module, source = _build(spec, weights, image_size=image_size, seed=seed)
        _drop_auxiliary(module)
        feature_dim = _drop_classifier(module, spec.name)
        parts = Parts(
            module=module,
            own=_preprocessing(weights),
            stages=torchvision_stages(module),
            source=source,
            declared_dim=feature_dim,
        )
        return assemble(spec, parts, image_size=image_size)


@cache
def _names() -> tuple[str, ...]:
    return tuple(sorted(f"torchvision/{name}" for name in torchvision_catalogue().weights))


def _model_name(spec: BackboneSpec) -> str:
    name = spec.name.partition("/")[2]
    return name.removesuffix("@DEFAULT")


def _entry(spec: BackboneSpec) -> WeightsEntry:
    entry = torchvision_catalogue().resolve(_model_name(spec))
    if entry is None:
        raise BackboneError(f"torchvision has no weights for '{spec.name}'.")
    return entry


def _fetch(entry: WeightsEntry, emit: Emit) -> Path:
    what = f"weights of torchvision/{entry.name}"
    return hub.fetch_url(what, entry.url or "", entry.num_bytes, emit)


def _build(
    spec: BackboneSpec, weights: Any, *, image_size: int | None, seed: int
) -> tuple[nn.Module, str]:
    """Return the whole model, classifier and auxiliary heads included, and its source."""
    from torchvision.models import get_model

    from bench.backbones.weights import load_complete, seeded

    entry = _entry(spec)
    model = entry.name.partition("@")[0]
    options = _options(model, weights, image_size)
    if model in _WITH_AUXILIARY:
        options["init_weights"] = spec.weights == "random"
    try:
        with seeded(seed):
            module = get_model(model, weights=None, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BackboneError(
            f"{spec.name}: torchvision cannot build it at {image_size} pixels: {error}"
        ) from error
    if spec.weights == "random":
        return module, f"random (seed {seed})"
    state, source = _read_weights(spec, entry, module)
    if "image_size" in options:
        state = _resample_positions(module, state, options["image_size"])
    load_complete(module, state, source=f"{spec.name} ({source})")
    return module, source


def _options(model: str, weights: Any, image_size: int | None) -> dict[str, Any]:
    """Return the arguments with which the builder itself makes a model for these weights."""
    options: dict[str, Any] = {}
    if model.startswith("vit_"):
        options["image_size"] = image_size or _preprocessing(weights).image_size
    if model.startswith("maxvit_") and image_size:
        options["input_size"] = (image_size, image_size)
    if model in _WITH_AUXILIARY:
        options |= {"transform_input": True, "aux_logits": True}
    return options


def _read_weights(
    spec: BackboneSpec, entry: WeightsEntry, module: nn.Module
) -> tuple[dict[str, Tensor], str]:
    """Return the tensors and their source; a checkpoint's classifier is replaced by a fresh one."""
    from bench.backbones.weights import read_state_dict

    if not spec.checkpoint:
        path = _fetch(entry, silent)
        return read_state_dict(path), f"torchvision {entry.name}: {hub.describe_file(path)}"
    path = hub.local_file(spec.checkpoint, name=spec.name)
    classifier = _classifier(module, spec.name)
    names = {f"{classifier}.weight", f"{classifier}.bias"}
    state = {name: value for name, value in read_state_dict(path).items() if name not in names}
    own = module.state_dict()
    return state | {name: own[name] for name in names if name in own}, f"file {path}"


def _resample_positions(
    module: nn.Module, state: dict[str, Tensor], image_size: int
) -> dict[str, Tensor]:
    """Return a ViT's tensors with position embeddings for another image size.

    Source: ``torchvision.models.vision_transformer.interpolate_embeddings``.
    """
    from torchvision.models.vision_transformer import interpolate_embeddings

    name = "encoder.pos_embedding"
    if name not in state or state[name].shape == module.state_dict()[name].shape:
        return state
    resampled = interpolate_embeddings(image_size, module.patch_size, dict(state))
    return dict(resampled)


def _drop_auxiliary(module: nn.Module) -> None:
    """Remove the heads that only served the original training."""
    for name in ("aux1", "aux2", "AuxLogits"):
        if getattr(module, name, None) is not None:
            setattr(module, name, None)
    if hasattr(module, "aux_logits"):
        module.aux_logits = False  # type: ignore[assignment]


def _classifier(module: nn.Module, name: str) -> str:
    """Return the path of the last linear layer.

    Raises:
        BackboneError: There is none, or it is no classifier.
    """
    from torch import nn

    paths = [path for path, child in module.named_modules() if isinstance(child, nn.Linear)]
    if not paths or paths[-1].partition(".")[0] not in _CLASSIFIERS:
        raise BackboneError(
            f"{name}: does not end in a linear classifier whose input could be its feature."
        )
    return str(paths[-1])


def _drop_classifier(module: nn.Module, name: str) -> int:
    """Put an identity in place of the classifier; return the width of its input."""
    from torch import nn

    path = _classifier(module, name)
    parent, _, child = path.rpartition(".")
    width = module.get_submodule(path).in_features
    setattr(module.get_submodule(parent), child, nn.Identity())
    return int(width)  # type: ignore[arg-type]


def _preprocessing(weights: Any) -> Preprocessing:
    transforms = weights.transforms()
    image_size, resize_size = transforms.crop_size[0], transforms.resize_size[0]
    return Preprocessing(
        image_size=image_size,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        interpolation=transforms.interpolation.value,
        crop_fraction=min(1.0, image_size / resize_size),
    )
