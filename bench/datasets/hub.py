"""Where an ``hf/…`` dataset lies, and its download; knows no features and no rows.

What is in the hub's cache is used as it is, without asking the network whether there is something
newer: the same suite gives the same numbers tomorrow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from bench.environment import find_snapshot, hub_cache_dir, is_offline
from bench.errors import DatasetError
from bench.interfaces import Missing
from bench.spec import DatasetSpec

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
            what=f"data of hf/{self.name}",
            how=f"on a machine with network run `hf download --repo-type dataset {self.name}{flag}`"
            f", copy its hub cache to {hub_cache_dir()} if that is another machine, and set "
            "HF_HUB_OFFLINE=1",
            downloadable=not is_offline(),
        )

    def fetch(self) -> Path:
        """Return the folder of the whole repository: from the cache, else downloaded into it.

        Raises:
            DatasetError: Not cached whole, and offline or not to be fetched.
        """
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        cache, patterns = hub_cache_dir(), list(DATA_FILES)
        try:
            return Path(
                snapshot_download(
                    self.name,
                    repo_type="dataset",
                    revision=self.revision,
                    cache_dir=cache,
                    allow_patterns=patterns,
                    local_files_only=True,
                )
            )
        except LocalEntryNotFoundError:
            if is_offline():
                raise self._explain("HF_HUB_OFFLINE is set") from None
        try:
            return Path(
                snapshot_download(
                    self.name,
                    repo_type="dataset",
                    revision=self.revision,
                    cache_dir=cache,
                    allow_patterns=patterns,
                )
            )
        except (OSError, ValueError) as error:
            # Every network, permission and name error of the hub's client is one of these two.
            lines = str(error).strip().splitlines()
            reason = f"{type(error).__name__}: {lines[0] if lines else ''}"
            raise self._explain(f"the download failed ({reason})") from error

    def _explain(self, reason: str) -> DatasetError:
        lack = self.missing()
        return DatasetError(f"{lack.what} is not on this machine and {reason}: {lack.how}.")


def find_place(spec: DatasetSpec) -> Path | Repository:
    """Return the path or the repository that follows ``hf/``.

    A path begins with ``/``, ``~`` or ``.``; everything else is a repository.

    Raises:
        DatasetError: It is neither, or a path that does not exist.
    """
    place = spec.name.partition("/")[2]
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
