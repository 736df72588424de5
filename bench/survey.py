"""What cells need of this machine and what they are known by; no torch, no network, no store.

A request key is the parent's cheap stand-in for a record's key: the cell, with size and time stamp
of every file it stands for and the version of every package that can change its numbers.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

from bench import registry
from bench.digests import canonical_text, digest_text, digest_value, stamp_files
from bench.interfaces import Located, Missing
from bench.spec import BackboneSpec, Cell, DatasetSpec
from bench.summary import RecordSummary, Status

_KEY_VERSION = 1
_ANY_SEED = -987654321987654321
"""Stands where the seed is in a text that cells share; no seed of a suite is negative."""
_PACKAGES = (
    "numpy",
    "pillow",
    "timm",
    "torch",
    "torchvision",
    "transfer-bench",
    "transformers",
)


@dataclass(frozen=True)
class CellSurvey:
    """What is known of a cell before it runs.

    Attributes:
        missing: What its backbone and its dataset lack on this machine.
        measured: Whether a run would skip it.
        estimated_seconds: Wall seconds it may take, after cells like it; None where none are known,
            0 where it is measured.
    """

    cell: Cell
    request_key: str
    missing: tuple[Missing, ...]
    measured: bool
    estimated_seconds: float | None


def survey_cells(
    cells: Sequence[Cell],
    *,
    ok_request_keys: Collection[str] = frozenset(),
    records: Iterable[RecordSummary] = (),
) -> tuple[CellSurvey, ...]:
    """Return what is known of each cell, in order.

    Args:
        cells: To look at.
        ok_request_keys: Of what the suite's latest run holds, on this class of device.
        records: Earlier ones, which say how long such cells take.
    """
    estimates = _Estimates(records)
    surveys = []
    for cell in cells:
        key = request_key(cell)
        measured = key in ok_request_keys
        seconds = 0.0 if measured else estimates.seconds(cell)
        surveys.append(CellSurvey(cell, key, locate_cell(cell).missing, measured, seconds))
    return tuple(surveys)


def find_blocking(surveys: Iterable[CellSurvey], *, offline: bool) -> tuple[Missing, ...]:
    """Return each lack that a run could not make good, once.

    Args:
        surveys: Cells that are measured need nothing.
        offline: Nothing can be downloaded.
    """
    lacks = (lack for survey in surveys if not survey.measured for lack in survey.missing)
    return tuple(dict.fromkeys(lack for lack in lacks if offline or not lack.downloadable))


def request_key(cell: Cell) -> str:
    """Return the digest of a cell with its files' stamps and its packages' versions.

    Files are looked at once per backbone and dataset; see `forget_files`.

    Raises:
        BenchError: A source or a strategy does not load.
    """
    before, after = _key_text(cell.model_copy(update={"seed": _ANY_SEED}))
    return digest_text(f"{before}{cell.seed}{after}")


@cache
def _key_text(cell: Cell) -> tuple[str, str]:
    """Return what a request key digests, before and after the seed: thousands of cells share it."""
    backbone, dataset = _states(cell)
    version = registry.strategy(cell.strategy.name).version
    amendment = cell.strategy.amendment()
    value = {
        "version": _KEY_VERSION,
        "cell": cell.canonical(),
        "strategy_version": f"{version}{amendment}" if amendment else version,
        "backbone": backbone.digest,
        "dataset": dataset.digest,
        "packages": _core_versions(),
    }
    if plugins := registry.plugins_of(cell):
        value["plugins"] = {kind: plugin.origin for kind, plugin in plugins.items()}
    text = canonical_text(value)
    before, after = text.split(str(_ANY_SEED))
    return before, after


def locate_cell(cell: Cell) -> Located:
    """Return the files, packages and lacks of a cell's backbone and dataset together."""
    return _located(cell.backbone, cell.dataset)


@cache
def _located(backbone: BackboneSpec, dataset: DatasetSpec) -> Located:
    parts = _backbone_state(backbone).located, _dataset_state(_whole(dataset)).located
    return Located(
        files=tuple(path for part in parts for path in part.files),
        missing=tuple(lack for part in parts for lack in part.missing),
        packages=tuple(dict.fromkeys(name for part in parts for name in part.packages)),
    )


def forget_files() -> None:
    """Look at every file again from now on: call it after something was downloaded or changed."""
    _key_text.cache_clear()
    _located.cache_clear()
    _backbone_state.cache_clear()
    _dataset_state.cache_clear()


@dataclass(frozen=True)
class _State:
    """What a spec stands for on this machine, and the digest of stamps and versions."""

    located: Located
    digest: str


def _states(cell: Cell) -> tuple[_State, _State]:
    return _backbone_state(cell.backbone), _dataset_state(_whole(cell.dataset))


def _whole(spec: DatasetSpec) -> DatasetSpec:
    # How much of a dataset is used does not decide which files it has, and there may be many.
    unused = ("image_size", "train_examples", "shots", "refit", "folds")
    return spec.model_copy(update=dict.fromkeys(unused))


@cache
def _backbone_state(spec: BackboneSpec) -> _State:
    return _state(registry.backbone_source(spec.name).locate(spec))


@cache
def _dataset_state(spec: DatasetSpec) -> _State:
    located = registry.dataset_source(spec.name).locate(spec)
    if spec.splits is not None:
        located = replace(located, files=(*located.files, Path(spec.splits).expanduser()))
    return _state(located)


def _state(located: Located) -> _State:
    value = {
        "files": stamp_files(located.files),
        "packages": {name: _version(name) for name in sorted(located.packages)},
    }
    return _State(located, digest_value(value))


@cache
def _core_versions() -> dict[str, str | None]:
    return {name: _version(name) for name in _PACKAGES}


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


class _Estimates:
    """Wall seconds of earlier cells, by what makes cells alike, closest likeness first."""

    def __init__(self, records: Iterable[RecordSummary]) -> None:
        seconds: Mapping[tuple[str, ...], list[float]] = defaultdict(list)
        for record in records:
            if record.status is Status.OK:
                for likeness in _likenesses(record.cell):
                    seconds[likeness].append(record.wall_seconds)
        self._seconds = {likeness: median(values) for likeness, values in seconds.items()}

    def seconds(self, cell: Cell) -> float | None:
        """Return the median of the closest likeness that has any, or None."""
        known = (self._seconds.get(likeness) for likeness in _likenesses(cell))
        return next((value for value in known if value is not None), None)


def _likenesses(cell: Cell) -> tuple[tuple[str, ...], ...]:
    backbone, strategy = cell.backbone.name, cell.strategy.name
    return (backbone, strategy, cell.dataset.label), (backbone, strategy)
