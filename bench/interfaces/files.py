"""The files a spec stands for and how what is missing comes here; knows no source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from bench.record import Progress

Emit: TypeAlias = Callable[[Progress], None]


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
