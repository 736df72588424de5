"""Labelled examples, their pools and splits, and the sources of them; knows no backbone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from bench.interfaces.files import Located
from bench.interfaces.inputs import Modality, RawInput
from bench.spec import DatasetSpec

if TYPE_CHECKING:
    import numpy as np

    from bench.artifacts import ArtifactCache


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
