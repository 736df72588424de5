"""The devices that cells are given; knows nothing of how fast they are."""

import os

from bench.environment import list_devices
from bench.errors import UsageError

DEVICE_VARIABLE = "BENCH_DEVICE"
"""``cpu``, ``cuda`` (all of them) or ``cuda:N``, instead of all that is found."""


def choose_devices() -> tuple[str, ...]:
    """Return every GPU this process may use as ``cuda:N``, else ``cpu``; BENCH_DEVICE goes first.

    Raises:
        UsageError: BENCH_DEVICE names a device that is not here.
    """
    here = list_devices()
    asked = os.environ.get(DEVICE_VARIABLE, "").strip().lower()
    if not asked:
        return tuple(device for device in here if device != "cpu") or ("cpu",)
    chosen = tuple(device for device in here if asked in (device, device.partition(":")[0]))
    if not chosen:
        raise UsageError(f"no device {DEVICE_VARIABLE}='{asked}' here. Known: {', '.join(here)}.")
    return chosen
