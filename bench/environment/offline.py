"""Whether downloads are forbidden here; knows no hub and no cache."""

import os

_SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_TRUE = ("1", "on", "yes", "true")


def is_offline() -> bool:
    """Return whether the hub's own switches forbid every download, in the spellings that it takes.

    torchvision has no such switch; here it follows the same ones.
    """
    return any(os.environ.get(name, "").lower() in _TRUE for name in _SWITCHES)
