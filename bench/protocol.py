"""What a suite and its datasets ask of train, val and test, together; knows no data and no file."""

from __future__ import annotations

from dataclasses import dataclass

from bench.spec import DatasetSpec, ProtocolName, Refit, Suite

VTAB_EXAMPLES = 1000
"""Train and val of `vtab-1k` together, 800 and 200. Source: Zhai et al., 2019, A Large-scale Study
of Representation Learning with the Visual Task Adaptation Benchmark."""


@dataclass(frozen=True)
class Defaults:
    """What a suite sets for every dataset that does not set it itself."""

    shots: int | tuple[int, ...] | None = None
    refit: Refit | None = None
    protocol: ProtocolName | None = None


def suite_defaults(suite: Suite) -> Defaults:
    """Return what a suite sets for its datasets."""
    return Defaults(suite.shots, suite.refit, suite.protocol)


def expand_dataset(spec: DatasetSpec, defaults: Defaults) -> tuple[DatasetSpec, ...]:
    """Return a dataset as its cells have it: one per number of shots, the suite's part filled in.

    A protocol is spelled out, so that its cells are those of a suite that says the same in full.

    Args:
        spec: As the suite lists it, without a conflict.
        defaults: Of the suite.
    """
    refit = spec.refit or defaults.refit
    update: dict[str, object] = {"protocol": None}
    if spec.protocol or defaults.protocol:
        update["train_examples"] = VTAB_EXAMPLES
        refit = "train+val"
    update["refit"] = None if refit == "none" else refit
    return spec.model_copy(update=update).per_shots(defaults.shots)


def expand_folds(spec: DatasetSpec) -> tuple[int | None, ...]:
    """Return the folds that a dataset has a cell for each; None alone where it has none."""
    return (None,) if spec.folds is None else tuple(range(spec.folds))


def find_conflict(spec: DatasetSpec, defaults: Defaults | None = None) -> str | None:
    """Return why what is asked of a dataset's splits cannot be had on any data, or None.

    Args:
        spec: As the suite lists it, or as a cell has it.
        defaults: Of the suite; None looks at the dataset alone.
    """
    defaults = defaults or Defaults()
    shots = spec.shots if spec.shots is not None else defaults.shots
    drawn = {"train_examples": spec.train_examples, "shots": shots}
    asked = [name for name, value in drawn.items() if value is not None]
    protocol = spec.protocol or defaults.protocol
    if protocol:
        taken = {"folds": spec.folds, "splits": spec.splits}
        asked += [name for name, value in taken.items() if value is not None]
        refit = spec.refit if spec.protocol else spec.refit or defaults.refit
        asked += ["refit: none"] if refit == "none" else []
        if asked:
            return (
                f"protocol: {protocol} sets train, val and refit itself, beside "
                f"{' and '.join(asked)}: keep one of them"
            )
    if spec.splits is not None and asked:
        return f"splits says which examples are train, so {asked[0]} has nothing to draw: keep one"
    if shots is not None and (spec.refit or defaults.refit) == "train+val":
        return (
            "refit: train+val would add the examples of val to the shots, which then are more than "
            "asked: leave out one of them, or write refit: none"
        )
    return None
