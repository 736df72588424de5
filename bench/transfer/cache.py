"""Where downloads lie on this machine: the hub's cache and torch.hub's; asks no network.

Source of the layout: huggingface_hub's guide "Understand caching": ``refs/<revision>`` holds a
commit, ``snapshots/<commit>/<file>`` is a link to ``blobs/<etag>``.
"""

import os
import shutil
from pathlib import Path
from uuid import uuid4

from bench.artifacts import write_atomically
from bench.interfaces import HubFiles


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()


def hub_cache_dir() -> Path:
    """Return the hub's cache folder: ``HF_HUB_CACHE``, ``HF_HOME/hub`` or the default one."""
    if os.environ.get("HF_HUB_CACHE"):
        return Path(os.environ["HF_HUB_CACHE"]).expanduser()
    home = os.environ.get("HF_HOME")
    return (Path(home).expanduser() if home else _cache_home() / "huggingface") / "hub"


def torch_checkpoint_dir() -> Path:
    """Return the folder of torch.hub's plain downloads: ``TORCH_HOME/hub/checkpoints``."""
    home = os.environ.get("TORCH_HOME")
    return (Path(home).expanduser() if home else _cache_home() / "torch") / "hub" / "checkpoints"


def repository_folder(repo: str, kind: str = "model") -> Path:
    """Return the folder of a repository in the hub's cache, there or not.

    Args:
        repo: ``owner/name``.
        kind: ``model`` or ``dataset``.
    """
    return hub_cache_dir() / f"{kind}s--{repo.replace('/', '--')}"


def find_snapshot(repo: str, revision: str | None = None, kind: str = "model") -> Path | None:
    """Return the cached folder of a hub repository at a revision, or None.

    Args:
        repo: ``owner/name``.
        revision: Branch, tag or full commit; None is ``main``.
        kind: ``model`` or ``dataset``.
    """
    folder = repository_folder(repo, kind)
    name = revision or "main"
    reference = folder / "refs" / name
    commit = reference.read_text().strip() if reference.is_file() else name
    snapshot = folder / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def link_blob(blob: Path, pointer: Path) -> None:
    """Make a file of a snapshot stand for a blob; a copy where the disk knows no links."""
    pointer.parent.mkdir(parents=True, exist_ok=True)
    # Made beside it and moved there: two processes may be linking the same file.
    made = pointer.with_name(f".{pointer.name}.{uuid4().hex}")
    try:
        made.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:
        shutil.copyfile(blob, made)
    made.replace(pointer)


def write_reference(wanted: HubFiles, commit: str) -> None:
    """Note which commit a branch or tag stands for; called when its files are all here."""
    name = wanted.revision or "main"
    if name != commit:
        path = repository_folder(wanted.repo, wanted.kind) / "refs" / name
        write_atomically(path, commit.encode())
