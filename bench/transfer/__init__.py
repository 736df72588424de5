"""Downloads that resume, are checked before they count, and fail in one message; no torch.

It knows the hub's interface and its cache's layout, and plain addresses; no source, no model.
"""

from bench.transfer.cache import (
    find_snapshot,
    hub_cache_dir,
    repository_folder,
    torch_checkpoint_dir,
)
from bench.transfer.failures import endpoint
from bench.transfer.files import RemoteFile, download
from bench.transfer.repository import fetch_repository
from bench.transfer.sizes import measure_sizes
from bench.transfer.tracking import Tracker, silent

__all__ = [
    "RemoteFile",
    "Tracker",
    "download",
    "endpoint",
    "fetch_repository",
    "find_snapshot",
    "hub_cache_dir",
    "measure_sizes",
    "repository_folder",
    "silent",
    "torch_checkpoint_dir",
]
