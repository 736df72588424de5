"""What backbones, datasets, strategies and `execute` hand each other; torch in annotations only.

Sources and strategies are importable without torch, since the parent process asks them for names,
specs and files; they import torch inside `load` and `adapt`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

from bench.record import (
    BackboneInfo,
    Effective,
    EpochPoint,
    InputPreprocessing,
    NumericsPlan,
    Progress,
    Selection,
)
from bench.spec import BackboneSpec, DatasetSpec, Numerics, StrategySpec

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image

    from bench.artifacts import ArtifactCache

Emit: TypeAlias = Callable[[Progress], None]
Modality: TypeAlias = Literal["image", "text", "audio"]
TOKEN_PADDING = -1
"""Stands in a batch of token ids behind the end of a text; no token has it."""


@dataclass(frozen=True)
class Clip:
    """Sound as it was recorded, mixed down to one channel.

    Attributes:
        samples: Amplitudes in [-1, 1], float32, shape (N,).
        sample_rate: Samples per second.
    """

    samples: np.ndarray
    sample_rate: int


RawInput: TypeAlias = "Image | str | Clip"
"""One example before any preprocessing, by modality: an image, a text or a clip."""


@dataclass(frozen=True)
class HubFiles:
    """Files of a hub repository that something needs.

    Attributes:
        repo: ``owner/name``.
        revision: Branch, tag or full commit; None is ``main``.
        always: Globs of file names that are wanted where the repository has them.
        first_of: Globs in order of preference; those of the first one that matches are wanted, and
            without any match the repository does not hold what is needed.
        kind: What the repository is to the hub.
    """

    repo: str
    revision: str | None = None
    always: tuple[str, ...] = ()
    first_of: tuple[str, ...] = ()
    kind: Literal["model", "dataset"] = "model"


Origin: TypeAlias = HubFiles | str
"""Where missing bytes lie: files of a hub repository, or a plain address."""


@dataclass(frozen=True)
class Missing:
    """Something that is not on this machine and must be downloaded.

    Attributes:
        what: E.g. ``weights of timm/resnet50.a1_in1k``.
        how: A command or a place that provides it.
        num_bytes: Its size where known.
        downloadable: Whether a run would fetch it by itself, given a network.
        origin: Where its bytes lie, where their size can be asked for.
    """

    what: str
    how: str
    num_bytes: int | None = None
    downloadable: bool = True
    origin: Origin | None = None


@dataclass(frozen=True)
class Located:
    """The files a spec stands for, found without torch and without a network.

    Attributes:
        files: Their size and time stamp decide whether a remembered key still holds.
        missing: What is not here.
        packages: Distributions whose version can change the numbers.
    """

    files: tuple[Path, ...] = ()
    missing: tuple[Missing, ...] = ()
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """A consecutive part of a backbone.

    Attributes:
        modules: Dotted paths of its modules, each whole: no other stage has parameters in them.
        parameters: Dotted names of its parameters that lie in no such module (``cls_token``).
    """

    name: str
    modules: tuple[str, ...]
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class EncodedRow:
    """One text or clip as a backbone takes it, before it is padded to the length of a batch.

    Attributes:
        values: Token ids, int32, or samples, float32, shape (L,), L of at least 1.
        is_truncated: Whether the example was longer than the backbone takes.
    """

    values: np.ndarray
    is_truncated: bool = False


@dataclass(frozen=True)
class RowEncoder:
    """How a backbone wants texts or clips, in rows of their own length.

    Attributes:
        encode: Raw examples, in order -> their rows.
        digest: Of all that decides what `encode` gives for an example.
    """

    encode: Callable[[Sequence[RawInput]], Sequence[EncodedRow]]
    digest: str


@dataclass(frozen=True)
class Backbone:
    """A loaded feature extractor.

    Attributes:
        module: Inputs -> features, shape (B, D), float. Inputs are, by modality, normalised images,
            shape (B, 3, H, W), float; token ids, shape (B, L), int64, `TOKEN_PADDING` behind the
            end of a text; samples, shape (B, L), float32, NaN behind the end of a clip.
        stages: In order from input to output; together they own every parameter exactly once.
        trainable: False for extractors with nothing to adapt (``plain/…``).
        modality: What it takes.
        encoder: How a text or a clip becomes a row of inputs; None for images.
        fit: Texts of train -> the backbone fitted to them, for extractors that have to see data
            (``plain/tfidf``); None for all others. Called once, before anything is encoded; the
            fitted state is part of the result's `info.weights_digest`.
    """

    module: torch.nn.Module
    info: BackboneInfo
    preprocessing: InputPreprocessing
    stages: tuple[Stage, ...]
    trainable: bool = True
    modality: Modality = "image"
    encoder: RowEncoder | None = None
    fit: Callable[[Sequence[str]], Backbone] | None = None


class BackboneSource(Protocol):
    """One place backbones come from; importable without torch."""

    prefix: ClassVar[str]

    def names(self) -> Sequence[str]:
        """Return every pretrained name, with the prefix, sorted; empty when not listable."""
        ...

    def check(self, spec: BackboneSpec) -> str | None:
        """Return what is wrong with a spec beyond an unknown name, or None."""
        ...

    def locate(self, spec: BackboneSpec) -> Located:
        """Return the files a spec stands for, without network and without torch."""
        ...

    def load(self, spec: BackboneSpec, *, image_size: int | None, seed: int) -> Backbone:
        """Return the backbone, weights loaded completely.

        Args:
            spec: What to load.
            image_size: Height and width in pixels; None is the backbone's own.
            seed: Draws the weights of ``weights: random``.

        Raises:
            WeightsMissingError: Not on disk, and downloads are forbidden here.
            TransferError: The download failed.
            WeightsMismatchError: Tensors that did not load, by name.
        """
        ...


class Fetching(Protocol):
    """What a source of backbones or datasets may offer beside its own protocol.

    `bench fetch` calls it ahead of a run and a cell calls it before `load`. A source without it
    has nothing to download, or downloads in `load`.
    """

    def fetch(self, spec: Any, emit: Emit) -> None:
        """Download everything that `locate` misses and `load` will read, checked; show progress.

        Args:
            spec: A `BackboneSpec` or a `DatasetSpec`, as the source's other methods take it.
            emit: Takes `Progress` of the phase ``download``.

        Raises:
            BenchError: It is not to be had, or did not arrive whole.
        """
        ...


@dataclass(frozen=True)
class Examples:
    """A part of a dataset as its source delivers it.

    Attributes:
        ids: Stable and unique within the dataset.
        labels: Class index per example, int64, shape (N,).
        contents: Digest of each example's bytes.
        read: Position -> image, text or clip, by the modality; called from several threads.
        encoded: Position -> the bytes of its file; None where examples are not stored as files.
        modality: What `read` gives; the same for every part of a dataset.
    """

    ids: tuple[str, ...]
    labels: np.ndarray
    contents: tuple[str, ...]
    read: Callable[[int], RawInput]
    encoded: Callable[[int], bytes] | None = None
    modality: Modality = "image"


@dataclass(frozen=True)
class RawDataset:
    """Labelled examples before any split is drawn.

    Attributes:
        parts: ``train`` always; ``val`` and ``test`` where the source has them.
        fingerprint: Digest of ids, labels and contents of all parts.
    """

    name: str
    class_names: tuple[str, ...]
    parts: Mapping[str, Examples]
    fingerprint: str
    num_corrupt: int = 0
    corrupt: tuple[str, ...] = ()


class DatasetSource(Protocol):
    """One place datasets come from; importable without torch.

    A source whose specs may set selectors (``text``, ``label``, …) lists their keys in an attribute
    ``selectors``; others are refused.
    """

    prefix: ClassVar[str]

    def names(self) -> Sequence[str]:
        """Return every name, with the prefix, sorted; empty when they are not listable."""
        ...

    def check(self, spec: DatasetSpec) -> str | None:
        """Return what is wrong with a spec beyond an unknown name, or None."""
        ...

    def locate(self, spec: DatasetSpec) -> Located:
        """Return the files a spec stands for, without network and without torch."""
        ...

    def load(self, spec: DatasetSpec, cache: ArtifactCache) -> RawDataset:
        """Return the examples; content digests may be remembered in the cache.

        Raises:
            DatasetError: Not found, unreadable, or more corrupt than the spec allows.
        """
        ...


class Pool(Protocol):
    """Decoded inputs of a dataset in one form, shared by every split, seed and shot count.

    Attributes:
        digest: Identifies the decoded content of every row.
    """

    digest: str

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return decoded rows: images, uint8, shape (B, H, W, 3), or what a sequence pool has."""
        ...


@runtime_checkable
class SequencePool(Pool, Protocol):
    """Texts or clips, each of its own length; `gather` gives (B, L), padded at the end.

    Attributes:
        lengths: Of every row, int64, shape (N,), known without gathering.
        typical_length: The median of `lengths`.
    """

    lengths: np.ndarray
    typical_length: int


@dataclass(frozen=True)
class Split:
    """Examples of one split.

    Attributes:
        rows: Row of each example in the pool, int64, shape (N,).
        labels: Class index, int64, shape (N,).
        ids_digest: Digest of the ids, in order.
    """

    name: str
    ids: tuple[str, ...]
    labels: np.ndarray
    pool: Pool
    rows: np.ndarray
    ids_digest: str

    def __len__(self) -> int:
        return len(self.ids)


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
