"""What is wrong with a backbone spec, for every source alike; imports no torch and no library."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from bench.interfaces import Modality
from bench.spec import BackboneSpec

NO_RESAMPLER = (
    "clips are resampled by the package soxr, which is not installed. Install it with: "
    "pip install 'transfer-bench[audio]'."
)
_INPUTS: dict[Modality, str] = {"image": "images", "text": "texts", "audio": "clips"}
_FIELDS: dict[Modality, tuple[str, ...]] = {
    "image": ("mean", "std"),
    "text": ("max_tokens", "pooling"),
    "audio": ("max_seconds",),
}
"""Fields that mean something for backbones of one modality alone."""


def check_choice(spec: BackboneSpec) -> str | None:
    """Return what is wrong with where a spec takes its weights from, or None."""
    if spec.weights == "random" and (spec.checkpoint or spec.revision):
        return f"'{spec.name}': weights: random excludes checkpoint and revision."
    if spec.checkpoint and spec.revision:
        return f"'{spec.name}': a checkpoint has no revision: drop one of the two."
    if spec.checkpoint and not Path(spec.checkpoint).expanduser().exists():
        return f"'{spec.name}': checkpoint {Path(spec.checkpoint).expanduser()} does not exist."
    return None


def check_fields(spec: BackboneSpec, modality: Modality | None) -> str | None:
    """Return what is wrong with fields that belong to another modality, or None.

    Args:
        spec: To check.
        modality: What the backbone takes; None where that is not known yet.
    """
    for of, fields in _FIELDS.items():
        given = [name for name in fields if getattr(spec, name) is not None]
        if given and modality not in (of, None):
            takes, other = _INPUTS[modality], _INPUTS[of]
            return f"'{spec.name}' takes {takes}, not {other}: drop {' and '.join(given)}."
    return None


def unknown_name(name: str, known: Sequence[str]) -> str:
    """Return the message for a name that a source does not have, with the nearest that it has."""
    near = get_close_matches(name, known, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return (
        f"unknown backbone '{name}'.{hint} List them with: "
        f"bench list backbones '{name.partition('/')[0]}/*'"
    )
