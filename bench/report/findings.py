"""Rows -> what they say: the best or the ties, what they cost, whether transfer was worth it."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.summary import RecordSummary
from bench.tables.ranking import Ranking, rank, told_apart
from bench.tables.rows import Row
from bench.tables.scale import percent, points

BASE_STRATEGY = "linear_probe"
MAX_DATA_WAIT = 0.1


@dataclass(frozen=True)
class Worth:
    """The most accurate pretrained row against one way of doing without transfer.

    Attributes:
        against: What it is compared with, for people.
        difference: Accuracy of that row minus that of the other way, a fraction.
        verdict: ``better``, ``tie`` or ``worse``; a tie is not told apart.
    """

    against: str
    difference: float
    verdict: str


@dataclass(frozen=True)
class Standing:
    """How the rows of one dataset stand.

    Attributes:
        ranking: The leader and all that may rank first.
        transfer: The most accurate row with pretrained weights that is not a plain extractor.
        worth: That row against majority class, plain extractor and random weights.
        fastest: Of leader and ties, the one with the highest comparable inference rate.
        missing: Which of these baselines the suite does not have.
    """

    dataset: str
    ranking: Ranking
    transfer: Row | None
    worth: tuple[Worth, ...]
    fastest: Row | None
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Gain:
    """How much a strategy adds to the linear probe of the same backbone and dataset.

    Attributes:
        clear: Whether the two rows are told apart, by their ranks or their intervals.
    """

    difference: float
    clear: bool


@dataclass(frozen=True)
class GainLine:
    """One backbone on one dataset: its probe and what the other strategies add, by name."""

    dataset: str
    backbone: str
    base: Row
    gains: dict[str, Gain]


def is_plain(row: Row) -> bool:
    """Return whether a row's backbone has nothing learned."""
    return row.backbone.startswith("plain/")


def standings(rows: Sequence[Row]) -> list[Standing]:
    """Return how the rows of each dataset stand, in the order of the rows."""
    return [
        _standing(
            dataset, ranking, [row for row in rows if row.dataset == dataset and _scored(row)]
        )
        for (_, _, dataset), ranking in rank(rows).items()
    ]


def _scored(row: Row) -> bool:
    return row.status == "ok" and row.test_accuracy is not None


def _standing(dataset: str, ranking: Ranking, rows: Sequence[Row]) -> Standing:
    transfer = _highest(row for row in rows if row.weights == "pretrained" and not is_plain(row))
    plain = _highest(row for row in rows if is_plain(row))
    scratch = _highest(row for row in rows if row.weights == "random")
    worth = [] if transfer is None else _worth_of(transfer, plain, scratch)
    missing = [
        name
        for name, row in (("a plain/… backbone", plain), ("weights: random", scratch))
        if not row
    ]
    return Standing(dataset, ranking, transfer, tuple(worth), fastest(ranking.all), tuple(missing))


def _highest(rows: Iterable[Row]) -> Row | None:
    return max(rows, key=accuracy, default=None)


def accuracy(row: Row) -> float:
    """Return a row's accuracy, for ordering: one without comes last."""
    return -1.0 if row.test_accuracy is None else row.test_accuracy


def _worth_of(transfer: Row, plain: Row | None, scratch: Row | None) -> list[Worth]:
    worth = []
    if transfer.majority_accuracy is not None:
        difference = accuracy(transfer) - transfer.majority_accuracy
        low = transfer.test_accuracy_low or 0.0
        verdict = "better" if low > transfer.majority_accuracy else _sign(difference, tie=True)
        text = f"always naming the most frequent class ({percent(transfer.majority_accuracy)}%)"
        worth.append(Worth(text, difference, verdict))
    for row, what in ((plain, "nothing learned"), (scratch, "training from scratch")):
        if row is not None:
            difference = accuracy(transfer) - accuracy(row)
            verdict = _sign(difference, tie=not told_apart(transfer, row))
            text = f"{what}: {row.backbone} · {row.strategy} ({percent(row.test_accuracy)}%)"
            worth.append(Worth(text, difference, verdict))
    return worth


def _sign(difference: float, *, tie: bool) -> str:
    if tie:
        return "tie"
    return "better" if difference > 0 else "worse"


def comparable_rates(rows: Sequence[Row]) -> list[Row]:
    """Return the rows whose inference rate may stand in one figure.

    Those on the most frequent device and batch size; rates at other ones are another quantity.
    """
    measured = [row for row in rows if row.infer_examples_per_second]
    if not measured:
        return []
    most_common = Counter((row.device, row.infer_batch_size) for row in measured).most_common(1)
    (setting, _), *_ = most_common
    return [row for row in measured if (row.device, row.infer_batch_size) == setting]


def comparable_memory(rows: Sequence[Row]) -> list[Row]:
    """Return the rows whose inference memory may stand in one figure: as `comparable_rates`."""
    measured = [row for row in rows if row.infer_peak_memory_bytes]
    if not measured:
        return []
    most_common = Counter(map(_memory_setting, measured)).most_common(1)
    (setting, _), *_ = most_common
    return [row for row in measured if _memory_setting(row) == setting]


def _memory_setting(row: Row) -> tuple[str | None, int | None, str | None]:
    return (row.device, row.infer_batch_size, row.memory_kind)


def fastest(rows: Sequence[Row]) -> Row | None:
    """Return the row with the highest comparable inference rate, if any was measured."""
    return max(
        comparable_rates(rows), key=lambda row: row.infer_examples_per_second or 0, default=None
    )


def strategy_gains(rows: Sequence[Row]) -> list[GainLine]:
    """Return one line per backbone and dataset that has a probe and another strategy."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if _scored(row):
            groups[row.dataset, row.backbone].append(row)
    lines = []
    for (dataset, backbone), group in groups.items():
        base = next((row for row in group if _is_base(row)), None)
        others = [row for row in group if not _is_base(row)]
        if base is not None and others:
            gains = {row.strategy: _gain(row, base) for row in others}
            lines.append(GainLine(dataset, backbone, base, gains))
    return lines


def _is_base(row: Row) -> bool:
    return row.strategy.partition(" (")[0] == BASE_STRATEGY


def _gain(row: Row, base: Row) -> Gain:
    return Gain(accuracy(row) - accuracy(base), clear=told_apart(row, base))


def caveats(records: Sequence[RecordSummary], rows: Sequence[Row]) -> list[str]:
    """Return what a reader should know before trusting the numbers, one sentence each."""
    found = [*_selection_caveats(records), *_wait_caveats(records), *_data_caveats(records)]
    found += _disturbance_caveats(records)
    if len({row.device for row in rows if row.device}) > 1:
        found.append("Cells ran on more than one device; figures of cost show the most frequent.")
    if len({row.versions for row in rows if row.versions}) > 1:
        found.append("Cells were measured under different package versions; see Environment.")
    if any(record.environment and record.environment.git_dirty for record in records):
        found.append("The project held uncommitted changes when some cells were measured.")
    if rows and all(row.num_seeds <= 1 for row in rows):
        found.append(
            "One seed per row: intervals and ranks cover which examples are in the test split, not "
            "what another seed would give."
        )
    return found


def _selection_caveats(records: Sequence[RecordSummary]) -> list[str]:
    chosen = [record.selection for record in records if record.selection is not None]
    at_edge = sum(bool(selection.at_grid_edge) for selection in chosen)
    loose = sum(selection.converged is False for selection in chosen)
    found = []
    if at_edge:
        found.append(
            f"{_cells(at_edge)} chose a value at the edge of the grid: a wider one may be better."
        )
    if loose:
        found.append(f"{_cells(loose)} stopped before the solver had converged.")
    return found


def _wait_caveats(records: Sequence[RecordSummary]) -> list[str]:
    waits = [
        [point.data_wait_fraction for point in record.curve if point.data_wait_fraction is not None]
        for record in records
    ]
    slow = sum(sum(shares) > MAX_DATA_WAIT * len(shares) for shares in waits)
    if not slow:
        return []
    return [
        f"{_cells(slow)} waited for data for more than {percent(MAX_DATA_WAIT, 0)}% of the time of "
        "the training steps: reading set the pace, not the device."
    ]


def _disturbance_caveats(records: Sequence[RecordSummary]) -> list[str]:
    profiles = [(record.train_profile, record.infer_profile) for record in records]
    disturbed = sum(any(each and each.is_disturbed for each in pair) for pair in profiles)
    if not disturbed:
        return []
    return [
        f"The speed of {_cells(disturbed)} was measured while the machine was busy: it is lower "
        "than the model's own. Run them again on an idle machine before comparing speeds."
    ]


def _data_caveats(records: Sequence[RecordSummary]) -> list[str]:
    duplicates: dict[str, int] = {}
    corrupt: dict[str, int] = {}
    for record in records:
        if record.data is not None:
            name = record.cell.dataset.label
            duplicates[name] = max(duplicates.get(name, 0), record.data.num_duplicates)
            corrupt[name] = max(corrupt.get(name, 0), record.data.num_corrupt)
    found = [
        f"{name}: {number} examples of val or test are also, byte for byte, in an earlier split."
        for name, number in duplicates.items()
        if number
    ]
    found += [
        f"{name}: {number} examples could not be read and were left out."
        for name, number in corrupt.items()
        if number
    ]
    return found + _truncation(records)


def _truncation(records: Sequence[RecordSummary]) -> list[str]:
    """Return a line per backbone and dataset of which examples were cut."""
    cut = {
        (record.cell.backbone.label, record.cell.dataset.label): record.data.num_truncated
        for record in records
        if record.data is not None and record.data.num_truncated
    }
    return [
        f"{dataset}: {backbone} does not take {number} examples whole; their ends were cut off."
        for (backbone, dataset), number in cut.items()
    ]


def _cells(number: int) -> str:
    return "1 cell" if number == 1 else f"{number} cells"


def gain_text(gain: Gain | None) -> str:
    """Return a gain in points, or a dash."""
    return points(gain.difference if gain else None)
