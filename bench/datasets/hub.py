"""Where an ``hf/…`` dataset lies, and its download; knows no features and no rows.

What is in the hub's cache is used as it is, without asking the network whether there is something
newer: the same suite gives the same numbers tomorrow.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from bench.datasets.places import named_place
from bench.environment import find_snapshot, hub_cache_dir, is_offline
from bench.errors import DatasetError
from bench.interfaces import Emit, HubFiles, Missing
from bench.spec import DatasetSpec
from bench.transfer.tracking import silent

DATA_FILES = (
    *("*.parquet", "*.arrow", "*.csv", "*.tsv", "*.json", "*.jsonl", "*.txt"),
    *("*.gz", "*.zst", "*.bz2", "*.zip", "*.tar", "*.md", "*.yaml"),
    *("*.jpg", "*.jpeg", "*.png", "*.webp", "*.gif", "*.bmp", "*.tif", "*.tiff"),
    *("*.wav", "*.flac", "*.mp3", "*.ogg", "*.opus"),
)
"""What is fetched of a repository: data and its description, never code."""

_REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Repository:
    """A dataset on the hub.

    Attributes:
        name: ``owner/name``, or the bare name of an old one.
        revision: Branch, tag or commit; None is ``main``.
    """

    name: str
    revision: str | None

    def snapshot(self) -> Path | None:
        """Return its folder in the hub's cache, whether whole or not, or None."""
        return find_snapshot(self.name, self.revision, kind="datasets")

    def missing(self) -> Missing:
        """Return what to download, and the command that does it."""
        flag = f" --revision {self.revision}" if self.revision else ""
        return Missing(
            what=self._what,
            how=f"on a machine with network run `hf download --repo-type dataset {self.name}{flag}`"
            f", or `bench fetch` for all of a suite, copy its hub cache to {hub_cache_dir()} if "
            "that is another machine, and set HF_HUB_OFFLINE=1",
            downloadable=not is_offline(),
            origin=self._wanted,
        )

    def fetch(self, emit: Emit = silent) -> Path:
        """Return the folder of the whole repository: from the cache, else downloaded into it.

        Args:
            emit: Takes progress.

        Raises:
            DatasetError: Not cached whole, and downloads are forbidden here.
            TransferError: It is not to be had, or did not arrive whole.
        """
        cached = self._find_whole()
        if cached is not None:
            return cached
        if is_offline():
            lack = self.missing()
            raise DatasetError(
                f"{lack.what} is not on this machine and HF_HUB_OFFLINE is set: {lack.how}."
            )
        from bench.transfer.repository import fetch_repository

        return fetch_repository(self._what, self._wanted, emit)

    @property
    def _what(self) -> str:
        return f"data of hf/{self.name}"

    @property
    def _wanted(self) -> HubFiles:
        return HubFiles(self.name, self.revision, always=DATA_FILES, kind="dataset")

    def _find_whole(self) -> Path | None:
        """Return the cached folder, unless the hub's client knows that something of it is missing.

        The client notes what a repository holds when it downloads one itself.
        """
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            return Path(
                snapshot_download(
                    self.name,
                    repo_type="dataset",
                    revision=self.revision,
                    cache_dir=hub_cache_dir(),
                    allow_patterns=list(DATA_FILES),
                    local_files_only=True,
                )
            )
        except LocalEntryNotFoundError:
            return None


def find_place(spec: DatasetSpec) -> Path | Repository:
    """Return the path or the repository that follows ``hf/``.

    A path begins with ``/``, ``~`` or ``.``; everything else is a repository.

    Raises:
        DatasetError: It is neither, or a path that does not exist.
    """
    place = named_place(spec.name, "hf/", "hf/owner/name or hf/~/data")
    if place.startswith(("/", "~", ".")):
        path = Path(place).expanduser()
        if not path.exists():
            raise DatasetError(
                f"{path} does not exist. Give a folder or file of data, or owner/name on the hub."
            )
        return path
    if not _REPOSITORY.fullmatch(place):
        raise DatasetError(
            f"'{place}' is no dataset of the hub by its name, which is owner/name; a path begins "
            "with /, ~ or a dot."
        )
    return Repository(place, spec.revision)


def files_below(path: Path) -> tuple[Path, ...]:
    """Return a file itself or every file at any depth of a folder, hidden ones left out, sorted."""
    if path.is_file():
        return (path,)
    found = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
    return tuple(sorted(file for file in found if not file.name.startswith(".")))
