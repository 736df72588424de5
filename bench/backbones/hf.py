"""Image, text and audio models of the hub through transformers' AutoModel; knows no dataset.

Of a text model, see `text`, of an audio model, `audio`. Of an image model, the feature is what the
model's own classifier would read, in this order: a dense BERT-like pooler is never used (most
checkpoints lack it) and the class token stands in; else the model's pooled output (mean of the map
for convolutional models, attention pooling of SigLIP, normed class token of DINOv2); else the class
token; else the mean of tokens or map. A model of image and text (CLIP, SigLIP) gives its vision
tower, before the projection.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from bench.backbones import hub
from bench.backbones.checks import NO_RESAMPLER, check_choice, check_fields
from bench.backbones.hub_kind import CONFIG as _CONFIG
from bench.backbones.hub_kind import (
    POOLING,
    folder_modality,
    has_tokenizer,
    processor_files,
    text_files,
)
from bench.backbones.hub_kind import PROCESSOR as _PROCESSOR
from bench.environment import find_snapshot, is_offline
from bench.errors import BackboneError
from bench.interfaces import Backbone, Emit, HubFiles, Located, Missing, Modality
from bench.spec import BackboneSpec
from bench.transfer.cache import is_known_whole
from bench.transfer.tracking import silent

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLE = ("model.safetensors", "pytorch_model.bin")
_PATTERNS = ("*.json", "*.md", "*.txt", "*.model")
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
_PACKAGES: dict[Modality, tuple[str, ...]] = {"text": ("tokenizers",), "audio": ("soxr",)}
_PATH_STARTS = ("/", "~", ".")


@dataclass(frozen=True)
class _Place:
    """Where a model lies.

    Attributes:
        repo: Hub repository; None for a folder of the user's.
        folder: The folder with its files; None when it is not on this machine.
    """

    repo: str | None
    folder: Path | None


class HubSource:
    """``hf/<owner>/<name>``, or ``hf/<path>`` where the path begins with ``/``, ``~`` or ``.``.

    A ``checkpoint:`` is a folder as ``save_pretrained`` writes it and stands for the repository.
    """

    prefix: ClassVar[str] = "hf"

    def names(self) -> Sequence[str]:
        """Return nothing: the hub cannot be listed."""
        return ()

    def check(self, spec: BackboneSpec) -> str | None:
        """Return what is wrong with a spec, or None; nothing is asked of the hub."""
        name = spec.name.partition("/")[2]
        local = name.startswith(_PATH_STARTS)
        if (not local and name.count("/") > 1) or not name.strip("/"):
            return f"'{spec.name}' is no hub repository: write hf/<owner>/<name> or hf/<path>."
        if local and (spec.checkpoint or spec.revision):
            return f"'{spec.name}' is a folder: drop checkpoint and revision."
        problem = check_choice(spec)
        if problem:
            return problem
        place = _place(spec)
        if place.repo is None and not (place.folder and (place.folder / _CONFIG).is_file()):
            return f"'{spec.name}': there is no {_CONFIG} in {place.folder}."
        modality = self.modality(spec)
        if modality == "audio" and find_spec("soxr") is None:
            return f"'{spec.name}': {NO_RESAMPLER}"
        return check_fields(spec, modality)

    def modality(self, spec: BackboneSpec) -> Modality | None:
        """Return what the model takes; None as long as nothing of it is on this machine."""
        place = _place(spec)
        return folder_modality(place.folder) if place.folder else None

    def locate(self, spec: BackboneSpec) -> Located:
        """Return configuration and weights, or what to download.

        A snapshot that another program fetched may lack files that decide the numbers: it has
        files, and what else its repository holds is missing.
        """
        packages: tuple[str, ...] = ("transformers", "torch")
        packages = (*_PACKAGES.get(self.modality(spec) or "image", ()), *packages)
        place = _place(spec)
        random = spec.weights == "random"
        files = _files(place.folder, weights=not random) if place.folder else None
        if files is None:
            return Located(missing=(_missing(spec, place),), packages=packages)
        rest = _wanted_of(spec, place)
        if rest is None:
            return Located(files=files, packages=packages)
        what = f"any other files of {place.repo}"
        missing = replace(hub.missing_from_hub(rest), what=what)
        return Located(files=files, missing=(missing,), packages=packages)

    def fetch(self, spec: BackboneSpec, emit: Emit) -> None:
        """Download what is not here; see `interfaces.Fetching`."""
        wanted = _wanted_of(spec, _place(spec))
        if wanted is not None:
            hub.fetch_from_hub(wanted, emit)

    def load(self, spec: BackboneSpec, *, image_size: int | None, seed: int) -> Backbone:
        """Return the backbone.

        Args:
            spec: Must pass `check`. Code from the repository runs only with trust_remote_code.
            image_size: Height and width in pixels; None is the image processor's. Position
                embeddings are interpolated in the forward pass where the model can.
            seed: Draws the weights of ``weights: random``.

        Raises:
            WeightsMissingError: Not on disk, and downloads are forbidden here.
            TransferError: The download failed.
            WeightsMismatchError: Tensors that did not load, by name.
            BackboneError: No vision model, no preprocessing, or it does not run at that size.
        """
        problem = self.check(spec)
        if problem:
            raise BackboneError(problem)
        from bench.backbones.assemble import Parts, assemble
        from bench.backbones.hub_features import load_hub_model, make_features
        from bench.backbones.hub_images import image_inputs
        from bench.backbones.stages import hub_stages

        folder, source = _fetch(spec)
        random = spec.weights == "random"
        if load_rows := _row_loader(folder):
            return load_rows(
                spec,
                folder,
                seed=seed if random else None,
                source=f"random (seed {seed})" if random else source,
                licence=_licence(folder),
            )
        model, unloaded = load_hub_model(spec, folder, seed=seed if random else None)
        inputs = image_inputs(spec, folder, image_size)
        module = make_features(
            model, unloaded, name=spec.name, reverses_channels=inputs.reverses_channels
        )
        parts = Parts(
            module=module,
            own=inputs.preprocessing,
            stages=hub_stages(module),
            source=f"random (seed {seed})" if random else source,
            licence=_licence(folder),
        )
        return assemble(spec, parts, image_size=image_size)


def _row_loader(folder: Path) -> Callable[..., Backbone] | None:
    """Return what loads a model of texts or clips; None for one of images."""
    modality = folder_modality(folder)
    if modality == "text":
        from bench.backbones.text import load_text_backbone

        return load_text_backbone
    if modality == "audio":
        from bench.backbones.audio import load_audio_backbone

        return load_audio_backbone
    return None


def _place(spec: BackboneSpec) -> _Place:
    name = spec.name.partition("/")[2]
    if spec.checkpoint:
        return _Place(None, Path(spec.checkpoint).expanduser())
    if name.startswith(_PATH_STARTS):
        return _Place(None, Path(name).expanduser())
    return _Place(name, find_snapshot(name, spec.revision))


def _files(folder: Path, *, weights: bool) -> tuple[Path, ...] | None:
    """Return configuration, processor or tokenizer, and weights; None when one is not there."""
    config, processors = folder / _CONFIG, processor_files(folder)
    if not config.is_file():
        return None
    found = [config, *processors]
    modality = folder_modality(folder)
    if modality == "audio" and not processors:
        return None
    if modality == "text":
        if not has_tokenizer(folder):
            return None
        found += text_files(folder)
    if not weights:
        return tuple(found)
    single = next((folder / name for name in _SINGLE if (folder / name).is_file()), None)
    if single:
        return (*found, single)
    index = next((folder / name for name in _INDEXES if (folder / name).is_file()), None)
    if index is None:
        return None
    shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    paths = [folder / shard for shard in shards]
    return (*found, index, *paths) if all(path.is_file() for path in paths) else None


def _describe_lack(folder: Path) -> str:
    """Return what a folder of the user's lacks of a model, and of which kind."""
    modality = folder_modality(folder)
    if modality == "audio" and not processor_files(folder):
        return f"a model of sound, and no {_PROCESSOR} in {folder}: save its feature extractor."
    if modality == "text" and not has_tokenizer(folder):
        return f"a model of texts, and no tokenizer in {folder}: save it there too."
    return f"no weights in {folder}: {' or '.join(_SINGLE)}."


def _fetch(spec: BackboneSpec) -> tuple[Path, str]:
    """Return the folder with everything in it, and where that came from.

    Raises:
        WeightsMissingError: Not on disk, and downloads are forbidden here.
        TransferError: The download failed.
        BackboneError: There is no model in the folder, or none that transformers reads.
    """
    place = _place(spec)
    weights = spec.weights != "random"
    if place.repo is None:
        folder = place.folder or Path()
        if _files(folder, weights=weights) is None:
            raise BackboneError(f"{spec.name}: {_describe_lack(folder)}")
        return folder, f"folder {folder}"
    if _is_whole(place, weights):
        return _source(spec, place)
    hub.fetch_from_hub(_wanted(spec, place), silent)
    place = _place(spec)
    if not _is_whole(place, weights):
        raise BackboneError(
            f"{spec.name}: {place.folder} holds no model that transformers reads: {_CONFIG} and "
            f"{' or '.join((*_SINGLE, *_INDEXES))} should be there."
        )
    return _source(spec, place)


def _wanted(spec: BackboneSpec, place: _Place) -> HubFiles:
    """Return the files to have; pickles only where the repository has no safetensors."""
    code = ("*.py",) if spec.trust_remote_code else ()
    repo = place.repo or str(place.folder)
    weights = () if spec.weights == "random" else _WEIGHTS
    return HubFiles(repo, spec.revision, always=(*_PATTERNS, *code), first_of=weights)


def _missing(spec: BackboneSpec, place: _Place) -> Missing:
    """Return what to download, or what the user's own folder lacks, which nothing downloads."""
    if place.repo is not None or place.folder is None:
        return hub.missing_from_hub(_wanted(spec, place))
    lack = _describe_lack(place.folder).rstrip(".")
    return Missing(f"files of {spec.name}", f"complete that folder: {lack}", downloadable=False)


def _wanted_of(spec: BackboneSpec, place: _Place) -> HubFiles | None:
    """Return what to ask the hub for; None where nothing can be asked or nothing is missing.

    What completes a snapshot is of its own commit, so that nothing here becomes newer.
    """
    if place.repo is None:
        return None
    wanted = _wanted(spec, place)
    if place.folder is None or not _is_whole(place, spec.weights != "random"):
        return wanted
    if is_offline() or _unsure_of(spec, place) is None:
        return None
    return replace(wanted, revision=place.folder.name)


def _unsure_of(spec: BackboneSpec, place: _Place) -> str | None:
    """Return a file that decides numbers and that may not have been fetched, or None."""
    if place.repo is None or place.folder is None:
        return None
    modality = folder_modality(place.folder)
    if modality == "text":
        name, is_here = POOLING, (place.folder / POOLING).is_file()
    else:
        name, is_here = _PROCESSOR, bool(processor_files(place.folder))
    known = is_here or is_known_whole(_wanted(spec, place), place.folder.name)
    return None if known else name


def _is_whole(place: _Place, weights: bool) -> bool:
    return place.folder is not None and _files(place.folder, weights=weights) is not None


def _source(spec: BackboneSpec, place: _Place) -> tuple[Path, str]:
    folder = place.folder or Path()
    lack = _unsure_of(spec, place)
    told = f", perhaps without its {lack}" if lack else ""
    return folder, f"hub {place.repo}@{folder.name}{told}"


def _licence(folder: Path) -> str | None:
    """Return the licence from the model card's header, if the card is there."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    for line in lines[1:]:
        key, _, value = line.partition(":")
        if line.strip() == "---":
            break
        if key.strip() == "license" and value.strip():
            return value.strip().strip("'\"")
    return None
