"""The devices that cells are given; knows nothing of how fast they are."""

import os

from bench.environment import device_class, list_devices
from bench.errors import UsageError

DEVICE_VARIABLE = "BENCH_DEVICE"
"""``cpu``, ``cuda`` (all of them) or ``cuda:N``, instead of all that is found."""


def choose_devices() -> tuple[str, ...]:
    """Return every GPU this process may use as ``cuda:N``, else ``cpu``; BENCH_DEVICE goes first.

    All are of the first one's kind: costs of different kinds do not belong in one run.

    Raises:
        UsageError: BENCH_DEVICE names a device that is not here.
    """
    here = list_devices()
    asked = os.environ.get(DEVICE_VARIABLE, "").strip().lower()
    if not asked:
        chosen = tuple(device for device in here if device != "cpu") or ("cpu",)
    else:
        chosen = tuple(device for device in here if asked in (device, device.partition(":")[0]))
    if not chosen:
        raise UsageError(f"no device {DEVICE_VARIABLE}='{asked}' here. Known: {', '.join(here)}.")
    kind = device_class(chosen[0])
    return tuple(device for device in chosen if device_class(device) == kind)
