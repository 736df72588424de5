"""Where downloads lie on this machine: the hub's cache and torch.hub's; asks no network.

Source of the layout: huggingface_hub's guide "Understand caching": ``refs/<revision>`` holds a
commit, ``snapshots/<commit>/<file>`` is a link to ``blobs/<etag>``.
"""

import json
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from uuid import uuid4

from bench.digests import digest_value
from bench.environment import hub_cache_dir, user_cache_dir
from bench.files import write_atomically
from bench.interfaces import HubFiles


def torch_checkpoint_dir() -> Path:
    """Return the folder of torch.hub's plain downloads: ``TORCH_HOME/hub/checkpoints``."""
    home = os.environ.get("TORCH_HOME")
    return (Path(home).expanduser() if home else user_cache_dir() / "torch") / "hub" / "checkpoints"


def repository_folder(wanted: HubFiles) -> Path:
    """Return the folder of a repository in the hub's cache, there or not."""
    return hub_cache_dir() / f"{wanted.kind}s--{wanted.repo.replace('/', '--')}"


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
        path = repository_folder(wanted) / "refs" / name
        write_atomically(path, commit.encode())


def write_names(wanted: HubFiles, commit: str, names: Collection[str]) -> None:
    """Note which of the wanted files a repository has; called when they are all here.

    The note lies in the repository's folder of the hub's cache, so that it is copied and deleted
    with it. The hub's clients look at other folders there.
    """
    write_atomically(_names_file(wanted, commit), json.dumps(sorted(names)).encode())


def is_known_whole(wanted: HubFiles, commit: str) -> bool:
    """Return whether the wanted files of a commit were all fetched from here, and still lie here.

    Programs that fetch what they need themselves leave snapshots that look alike and lack some.
    """
    try:
        names = json.loads(_names_file(wanted, commit).read_text())
    except (OSError, ValueError):
        return False
    snapshot = repository_folder(wanted) / "snapshots" / commit
    return all((snapshot / name).exists() for name in names)


def _names_file(wanted: HubFiles, commit: str) -> Path:
    digest = digest_value([wanted.always, wanted.first_of])
    return repository_folder(wanted) / "bench" / f"{commit}-{digest[:16]}.json"
