"""Rows and curves -> positions in small SVG panels; knows no HTML."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.report.axes import Axis, Tick, linear_axis, log_axis, robust_floor
from bench.report.findings import accuracy, is_plain
from bench.summary import RecordSummary
from bench.tables import scale
from bench.tables.rows import Row

WIDTH, HEIGHT = 420, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 12, 40
_CHARACTER_WIDTH, _LINE_HEIGHT = 6.6, 13
NUM_SERIES = 8
_MOST_BELOW = 12
_MOST_MARKS = 400


@dataclass(frozen=True)
class Mark:
    """A point of a panel: position in the SVG's units, series index, and what a tip says."""

    x: float
    y: float
    series: int
    hollow: bool
    tip: str
    on_front: bool = False


@dataclass(frozen=True)
class Label:
    """A name beside a mark."""

    x: float
    y: float
    text: str
    anchor: str


@dataclass(frozen=True)
class Line:
    """A polyline of a panel."""

    path: str
    series: int
    tip: str


@dataclass(frozen=True)
class Panel:
    """One small chart.

    Attributes:
        front: SVG path of the Pareto front, empty without.
        below: What lies so far below that it is named instead of drawn.
        num_further: Rows left out since so many marks would hide each other.
        description: What it shows, for those who do not see it.
    """

    title: str
    description: str
    x_title: str
    y_title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...] = ()
    labels: tuple[Label, ...] = ()
    lines: tuple[Line, ...] = ()
    front: str = ""
    below: tuple[str, ...] = ()
    num_further: int = 0


@dataclass(frozen=True)
class CostAxis:
    """What accuracy is plotted against.

    Attributes:
        value: Row -> cost, above 0.
        more_is_better: Whether the front lies towards high values.
    """

    title: str
    value: Callable[[Row], float | None]
    text: Callable[[float], str]
    more_is_better: bool
    unit: str


THROUGHPUT = CostAxis(
    "inference, examples/s (log)",
    lambda row: row.infer_examples_per_second,
    scale.rate,
    more_is_better=True,
    unit="examples/s",
)
MEMORY = CostAxis(
    "inference peak memory, MiB (log)",
    lambda row: row.infer_peak_memory_bytes and row.infer_peak_memory_bytes / (1 << 20),
    scale.rate,
    more_is_better=False,
    unit="MiB",
)


def place_x(share: float) -> float:
    """Return the x position of a share of the axis, in the SVG's units."""
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def place_y(share: float) -> float:
    """Return the y position of a share of the axis, in the SVG's units."""
    return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def cost_panel(
    dataset: str, rows: Sequence[Row], cost: CostAxis, strategies: Sequence[str]
) -> Panel | None:
    """Return accuracy against a cost on one dataset, with the Pareto front.

    Args:
        dataset: Its name.
        rows: Its rows that may be compared in that cost.
        cost: The horizontal axis.
        strategies: All strategies of the page; their order gives colour and shape.
    """
    scored = [row for row in rows if cost.value(row) and row.test_accuracy is not None]
    if not scored:
        return None
    floor = robust_floor([accuracy(row) for row in scored])
    inside = [row for row in scored if accuracy(row) >= floor]
    front = pareto_front(inside, cost)
    ahead = set(map(id, front))
    shown = _most_telling(inside, ahead)
    across = log_axis([_cost(row, cost) for row in shown])
    up = linear_axis([accuracy(row) for row in shown], least=0.0, most=1.0)
    marks = tuple(_mark(row, cost, across, up, strategies, id(row) in ahead) for row in shown)
    named = [(row, mark) for row, mark in zip(shown, marks, strict=True) if mark.on_front]
    return Panel(
        title=dataset,
        description=_describe(dataset, front, cost),
        x_title=cost.title,
        y_title="test accuracy, %",
        x_ticks=tuple(across.ticks(cost.text)),
        y_ticks=tuple(up.ticks(lambda value: scale.percent(value, _digits(up)))),
        marks=marks,
        labels=_labels([(short_name(row.backbone), mark) for row, mark in named], marks),
        front=_front_path([mark for _, mark in named]),
        below=_below([row for row in scored if accuracy(row) < floor]),
        num_further=len(inside) - len(shown),
    )


def _most_telling(rows: Sequence[Row], ahead: set[int]) -> list[Row]:
    """Return the rows of the front and the most accurate others, in the order given."""
    if len(rows) <= _MOST_MARKS:
        return list(rows)
    best = sorted(rows, key=accuracy, reverse=True)[:_MOST_MARKS]
    kept = ahead.union(map(id, best))
    return [row for row in rows if id(row) in kept]


def _cost(row: Row, cost: CostAxis) -> float:
    return cost.value(row) or 0.0


def _below(rows: Sequence[Row]) -> tuple[str, ...]:
    named = [
        f"{short_name(row.backbone)} · {row.strategy}, {scale.percent(row.test_accuracy)}%"
        for row in rows[:_MOST_BELOW]
    ]
    more = len(rows) - len(named)
    return (*named, f"and {more} more") if more else tuple(named)


def _digits(axis: Axis) -> int:
    return 1 if axis.high - axis.low < 0.05 else 0


def pareto_front(rows: Sequence[Row], cost: CostAxis) -> list[Row]:
    """Return the rows that no other row beats in accuracy and cost at once, cheapest first."""
    sign = -1.0 if cost.more_is_better else 1.0
    ordered = sorted(rows, key=lambda row: (sign * _cost(row, cost), -accuracy(row)))
    front: list[Row] = []
    for row in ordered:
        if not front or accuracy(row) > accuracy(front[-1]):
            front.append(row)
    return front


def _mark(
    row: Row, cost: CostAxis, across: Axis, up: Axis, strategies: Sequence[str], on_front: bool
) -> Mark:
    interval = scale.interval(row.test_accuracy_low, row.test_accuracy_high)
    tip = (
        f"{row.backbone}\n{row.strategy}\n{scale.percent(row.test_accuracy)}% [{interval}]\n"
        f"{cost.text(_cost(row, cost))} {cost.unit}"
    )
    return Mark(
        x=place_x(across.share(_cost(row, cost))),
        y=place_y(up.share(accuracy(row))),
        series=strategies.index(row.strategy) % NUM_SERIES,
        hollow=is_plain(row) or row.weights == "random",
        tip=tip,
        on_front=on_front,
    )


def _describe(dataset: str, front: Sequence[Row], cost: CostAxis) -> str:
    best = "; ".join(
        f"{row.backbone} {row.strategy}: {scale.percent(row.test_accuracy)}% at "
        f"{cost.text(_cost(row, cost))} {cost.unit}"
        for row in front
    )
    return f"Test accuracy against {cost.title} on {dataset}. Pareto front: {best}."


def _front_path(marks: Sequence[Mark]) -> str:
    """Return a staircase: between two points of the front the cheaper one is what one gets."""
    if len(marks) < 2:
        return ""
    steps = [f"M{marks[0].x} {marks[0].y}"]
    steps += [f"H{mark.x}V{mark.y}" for mark in marks[1:]]
    return "".join(steps)


def short_name(backbone: str) -> str:
    """Return a backbone's name without its source: ``resnet50`` of ``timm/resnet50``."""
    return backbone.partition("/")[2] or backbone


@dataclass
class _Room:
    """Boxes that are taken, so that a name is put where it covers nothing."""

    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)

    def is_free(self, wished: tuple[float, float, float, float]) -> bool:
        left, top, right, bottom = wished
        if left < LEFT or right > WIDTH - 2 or top < 0 or bottom > HEIGHT - BOTTOM:
            return False
        return not any(
            left < box[2] and right > box[0] and top < box[3] and bottom > box[1]
            for box in self.boxes
        )


def _labels(named: Sequence[tuple[str, Mark]], marks: Sequence[Mark]) -> tuple[Label, ...]:
    """Return each name at the first free place around its mark; without one it is left out."""
    room = _Room([(m.x - 5, m.y - 5, m.x + 5, m.y + 5) for m in marks])
    labels = []
    for text, mark in named:
        width = len(text) * _CHARACTER_WIDTH
        for label, left in _places(text, mark, width):
            box = (left, label.y - _LINE_HEIGHT + 3, left + width, label.y + 3)
            if room.is_free(box):
                room.boxes.append(box)
                labels.append(label)
                break
    return tuple(labels)


def _places(text: str, mark: Mark, width: float) -> list[tuple[Label, float]]:
    """Return places for a name with the left edge each would have, the best first."""
    beside = [
        (Label(mark.x + 8, round(mark.y + 4, 1), text, "start"), mark.x + 8),
        (Label(mark.x - 8, round(mark.y + 4, 1), text, "end"), mark.x - 8 - width),
    ]
    places = []
    for rise in (-9, 18, -22, 30):
        y = round(mark.y + rise, 1)
        places += [
            (Label(mark.x, y, text, "middle"), mark.x - width / 2),
            (Label(mark.x - 5, y, text, "start"), mark.x - 5),
            (Label(mark.x + 5, y, text, "end"), mark.x + 5 - width),
        ]
    return [*places[:3], *beside, *places[3:]]


@dataclass(frozen=True)
class Curve:
    """Val accuracy per epoch of one cell, under the names of its row."""

    dataset: str
    strategy: str
    backbone: str
    record: RecordSummary


def highest(curves: Sequence[Curve], most: int) -> list[Curve]:
    """Return the curves that reach the highest val accuracy, at most so many, in their order."""

    def peak(index: int) -> float:
        return max((value for _, value in _points(curves[index].record)), default=-1.0)

    kept = sorted(range(len(curves)), key=peak, reverse=True)[:most]
    return [curves[index] for index in sorted(kept)]


def curve_panel(title: str, curves: Sequence[Curve], backbones: Sequence[str]) -> Panel | None:
    """Return val accuracy against the epoch, one line per cell.

    Args:
        title: Dataset and strategy.
        curves: Those of one panel.
        backbones: All backbones with curves; their order gives the colour.
    """
    points = [(curve, _points(curve.record)) for curve in curves]
    points = [(curve, line) for curve, line in points if line]
    if not points:
        return None
    everything = [point for _, line in points for point in line]
    up = linear_axis([value for _, value in everything], least=0.0, most=1.0)
    across = linear_axis([float(epoch) for epoch, _ in everything], least=0.5)
    lines, marks = [], []
    for curve, line in points:
        series = backbones.index(curve.backbone) % NUM_SERIES
        spots = [(place_x(across.share(e)), place_y(up.share(v))) for e, v in line]
        tip = f"{curve.backbone}\n{curve.record.cell.draw}"
        path = "M" + "L".join(f"{x} {y}" for x, y in spots)
        lines.append(Line(path, series, tip))
        marks += [
            Mark(x, y, series, False, f"{tip}\nepoch {epoch}: {scale.percent(value)}% on val")
            for (x, y), (epoch, value) in zip(spots, line, strict=True)
        ]
    whole = [tick for tick in across.ticks(lambda value: f"{value:g}") if "." not in tick.text]
    return Panel(
        title=title,
        description=f"Val accuracy per epoch, {title}, of {len(points)} cells.",
        x_title="epoch",
        y_title="val accuracy, %",
        x_ticks=tuple(whole),
        y_ticks=tuple(up.ticks(lambda value: scale.percent(value, _digits(up)))),
        lines=tuple(lines),
        marks=tuple(marks),
    )


def _points(record: RecordSummary) -> list[tuple[int, float]]:
    return [(p.epoch, p.val_accuracy) for p in record.curve if p.val_accuracy is not None]
