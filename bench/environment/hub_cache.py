"""Where the hub's client keeps what it fetched; knows no model, no dataset and no network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal


def user_cache_dir() -> Path:
    """Return the folder of caches: ``XDG_CACHE_HOME`` or ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()


def hub_cache_dir() -> Path:
    """Return the hub's cache folder: ``HF_HUB_CACHE``, ``HF_HOME/hub`` or the default one."""
    if os.environ.get("HF_HUB_CACHE"):
        return Path(os.environ["HF_HUB_CACHE"]).expanduser()
    home = os.environ.get("HF_HOME")
    return (Path(home).expanduser() if home else user_cache_dir() / "huggingface") / "hub"


def find_snapshot(
    repo: str, revision: str | None = None, *, kind: Literal["models", "datasets"] = "models"
) -> Path | None:
    """Return the cached folder of a hub repository at a revision, or None.

    Args:
        repo: ``owner/name``.
        revision: Branch, tag or full commit; None is ``main``.
        kind: What the repository holds.
    """
    folder = hub_cache_dir() / f"{kind}--{repo.replace('/', '--')}"
    name = revision or "main"
    reference = folder / "refs" / name
    commit = reference.read_text().strip() if reference.is_file() else name
    snapshot = folder / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None
