"""How slow this core is at the moment, so that bounds in seconds mean the same on any machine."""

from time import process_time

_ROUNDS = 2_000_000
_REFERENCE_SECONDS = 0.08
"""What the loop takes on the core for which bounds of processor time are written."""


def slowness() -> float:
    """Return how many times the reference core's processor time plain Python takes here, from 1."""
    began, total = process_time(), 0
    for number in range(_ROUNDS):
        total += number
    return max(1.0, (process_time() - began) / _REFERENCE_SECONDS)
