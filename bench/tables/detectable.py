"""Verdicts -> the smallest change a night could have shown, per family; knows no store, no file."""

from collections import defaultdict
from dataclasses import dataclass
from statistics import median

from bench.gate.night import Night
from bench.gate.values import FAMILIES, Row

_TITLES = {"macro_f1": "macro-F1", "nll": "NLL"}
_POINTS = ("accuracy", "macro_f1")


@dataclass(frozen=True)
class Detectable:
    """The smallest harm that the rows of one family would have shown with the power asked for.

    Attributes:
        family: As minimum effects name it.
        num_rows: Rows that were tested, at least one.
        median: Over these rows: a fraction, nats for nll, or a share of the baseline.
        worst: The largest of them.
        min_effect: What counts as a regression, likewise.
        num_measured: Rows whose noise from run to run is measured.
        num_assumed: Rows whose noise is the assumed floor; of the rest none was allowed for.
    """

    family: str
    num_rows: int
    median: float
    worst: float
    min_effect: float
    num_measured: int
    num_assumed: int

    @property
    def title(self) -> str:
        """Return the family as people write it."""
        return _TITLES.get(self.family, self.family)

    @property
    def noise(self) -> str:
        """Return where the noise from run to run comes from, for people."""
        if not self.num_measured and not self.num_assumed:
            return "not allowed for"
        if self.num_measured and self.num_assumed:
            return f"measured for {self.num_measured} of {self.num_rows} rows, else assumed"
        return "measured" if self.num_measured else "assumed"


def detectable_changes(night: Night) -> list[Detectable]:
    """Return what could be seen of every family that was tested, in the order of families."""
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in night.verdicts.rows:
        if row.metric is not None and row.detectable is not None:
            rows[FAMILIES[row.metric]].append(row)
    families = dict.fromkeys(FAMILIES.values())
    return [_summarise(night, name, rows[name]) for name in families if name in rows]


def _summarise(night: Night, family: str, rows: list[Row]) -> Detectable:
    values = [row.detectable for row in rows if row.detectable is not None]
    return Detectable(
        family=family,
        num_rows=len(values),
        median=median(values),
        worst=max(values),
        min_effect=night.settings.min_effects[family],
        num_measured=sum(row.noise_assumed is False for row in rows),
        num_assumed=sum(row.noise_assumed is True for row in rows),
    )


def size_text(value: float, family: str) -> str:
    """Return a size of change with its unit: ``0.52 pt``, ``0.013`` nats, ``4.1%``."""
    if family == "nll":
        return f"{value:.3f}"
    shown = f"{100 * value:.1f}" if value >= 0.01 else f"{100 * value:.2g}"
    return f"{shown} pt" if family in _POINTS else f"{shown}%"


def row_noise_text(row: Row) -> str:
    """Return how much a row's value varies from run to run, measured or assumed; or nothing."""
    if row.metric is None or row.noise is None:
        return ""
    source = "assumed" if row.noise_assumed else "measured"
    return f"{size_text(row.noise, FAMILIES[row.metric])} {source}"


def detectable_text(night: Night) -> str:
    """Return one line for people; empty where nothing was tested."""
    found = detectable_changes(night)
    if not found:
        return ""
    parts = [
        f"{each.title} {size_text(each.median, each.family)} "
        f"({size_text(each.worst, each.family)}; noise {each.noise})"
        for each in found
    ]
    return f"Smallest change detectable here, median (and worst) over cells: {', '.join(parts)}"
