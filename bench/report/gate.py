"""A judged night -> what the report's gate section shows; knows no record and no file."""

from dataclasses import dataclass

from bench.compare import Difference
from bench.gate import Verdict
from bench.gate.night import Night
from bench.tables.detectable import Detectable, detectable_changes
from bench.tables.verdicts import (
    RED,
    Replaced,
    VerdictLine,
    counts_text,
    outcome_text,
    replaced_contents,
    verdict_lines,
)

# A night of a thousand red rows is read in its files; the page keeps to the gravest.
_MOST_VERDICTS = 200


@dataclass(frozen=True)
class GateSection:
    """The comparison with a baseline as the page tells it.

    Attributes:
        title: What the run is compared with.
        spans: When the baseline and the candidate were measured.
        outcome: The exit code in a sentence.
        counts: Rows by verdict, in a sentence.
        lines: Rows that are not unchanged, red ones first.
        num_further: Rows that only the files show.
        replaced: Content behind the same names that is another one.
        changes: Versions that differ: the environment diff.
        detectable: The smallest change that would have been seen, by family.
    """

    title: str
    spans: tuple[str, str]
    outcome: str
    counts: str
    lines: tuple[VerdictLine, ...]
    num_further: int
    replaced: tuple[Replaced, ...]
    changes: tuple[Difference, ...]
    detectable: tuple[Detectable, ...]

    def is_red(self, line: VerdictLine) -> bool:
        """Return whether a row fails the night."""
        return line.verdict in RED


def gate_section(night: Night) -> GateSection:
    """Return the section of a night.

    Args:
        night: The comparison of the page's records with a baseline.
    """
    lines = [line for line in verdict_lines(night) if line.verdict is not Verdict.UNCHANGED]
    return GateSection(
        title=night.baseline.title,
        spans=(night.baseline.when, night.candidate.when),
        outcome=outcome_text(night),
        counts=counts_text(night) or "no cell on either side",
        lines=tuple(lines[:_MOST_VERDICTS]),
        num_further=len(lines[_MOST_VERDICTS:]),
        replaced=tuple(replaced_contents(night)),
        changes=night.changes,
        detectable=tuple(detectable_changes(night)),
    )
