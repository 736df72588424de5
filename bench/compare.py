"""Two records -> what differs and what may be compared; pure, and passes no verdict yet."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.record import InferProfile, Record, TrainProfile
from bench.spec import Cell


@dataclass(frozen=True)
class Comparison:
    """The difference of two records, with None wherever they cannot be compared.

    Attributes:
        same_key: Whether everything that can change the numbers is equal.
        same_device: Whether they ran on one class of device.
        test_accuracy_difference: Candidate minus baseline, fraction; equal keys only.
        infer_rate_ratio: Candidate over baseline; equal keys, device class and batch size only.
        train_rate_ratio: Likewise.
        reasons: Why something was left out, for people.
    """

    same_key: bool
    same_device: bool
    test_accuracy_difference: float | None
    infer_rate_ratio: float | None
    train_rate_ratio: float | None
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """A part of the key, or a field of the cell, that is not equal; None where it is absent."""

    name: str
    first: str | None
    second: str | None


def compare_records(baseline: Record, candidate: Record) -> Comparison:
    """Return by how much a candidate differs from its baseline, where that means something.

    Whether a difference is more than chance is not judged here.

    Args:
        baseline: What was measured before.
        candidate: What is measured now.
    """
    same_key = baseline.key is not None and baseline.key == candidate.key
    same_device = _device_class(baseline) is not None and (
        _device_class(baseline) == _device_class(candidate)
    )
    costs = same_key and same_device
    return Comparison(
        same_key=same_key,
        same_device=same_device,
        test_accuracy_difference=_accuracy_difference(baseline, candidate) if same_key else None,
        infer_rate_ratio=_ratio(baseline.infer_profile, candidate.infer_profile, costs),
        train_rate_ratio=_ratio(baseline.train_profile, candidate.train_profile, costs),
        reasons=tuple(_reasons(baseline, candidate, same_key, same_device)),
    )


def _device_class(record: Record) -> str | None:
    return record.environment.device_class if record.environment else None


def _accuracy_difference(baseline: Record, candidate: Record) -> float | None:
    if baseline.test is None or candidate.test is None:
        return None
    return candidate.test.accuracy - baseline.test.accuracy


_Profile = TrainProfile | InferProfile | None


def _ratio(baseline: _Profile, candidate: _Profile, comparable: bool) -> float | None:
    if not comparable or baseline is None or candidate is None:
        return None
    if baseline.batch_size != candidate.batch_size or baseline.examples_per_second <= 0:
        return None
    return candidate.examples_per_second / baseline.examples_per_second


def _reasons(baseline: Record, candidate: Record, same_key: bool, same_device: bool) -> list[str]:
    reasons = [
        f"the {name} is {record.status.value}, so it has no scores"
        for name, record in (("baseline", baseline), ("candidate", candidate))
        if record.test is None
    ]
    if not same_key:
        reasons.append("their keys differ, so another task was measured: see bench explain")
    if not same_device:
        classes = f"{_device_class(baseline)} and {_device_class(candidate)}"
        reasons.append(f"they ran on different classes of device ({classes}), so costs are not one")
    return reasons


def explain_keys(first: Record, second: Record) -> list[Difference]:
    """Return what makes the keys of two records differ: key parts, then fields of the cell.

    Args:
        first: One record.
        second: The other.
    """
    parts = differences(first.key_parts, second.key_parts, "key: ")
    return parts + differences(cell_fields(first.cell), cell_fields(second.cell), "cell: ")


def cell_fields(cell: Cell) -> dict[str, str]:
    """Return dotted path -> text of every field of a cell that can change the numbers.

    Args:
        cell: Any.
    """
    return _flat(cell.canonical())


def differences(
    first: Mapping[str, str], second: Mapping[str, str], prefix: str = ""
) -> list[Difference]:
    """Return the entries of two mappings that are not equal, in the order of their names.

    Args:
        first: Text by name.
        second: The other; a name that one of them lacks is a difference.
        prefix: Goes before every name.
    """
    return [
        Difference(prefix + name, first.get(name), second.get(name))
        for name in dict.fromkeys([*first, *second])
        if first.get(name) != second.get(name)
    ]


def _flat(value: Any, path: str = "") -> dict[str, str]:
    """Return dotted path -> text of every leaf of a JSON value; a list counts as a leaf."""
    if not isinstance(value, dict):
        return {path: str(value)}
    leaves: dict[str, str] = {}
    for name, item in value.items():
        leaves |= _flat(item, f"{path}.{name}" if path else str(name))
    return leaves
