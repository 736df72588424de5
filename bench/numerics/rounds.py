"""Candidates timed against each other in rounds, while the machine lets them; compiles nothing."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench.meters import WaitMeter
from bench.numerics.applied import Candidate
from bench.numerics.trial import Trial
from bench.summary import MAX_WAITING, NumericsPlan

MIN_GAIN = 0.05
BUDGET_SECONDS = 1.5

_MIN_ROUNDS, _MAX_ROUNDS = 3, 9
_CLEARLY_SLOWER = 1.5


class DisturbedError(Exception):
    """Other work disturbed the timings: they are not to be remembered beyond the run."""

    def __init__(self, plan: NumericsPlan) -> None:
        super().__init__("the machine was busy")
        self.plan = plan


@dataclass
class Rounds:
    """Timings so far, what was rejected, and what compiling took."""

    seconds: dict[Candidate, list[float]] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    compile_seconds: dict[Candidate, float] = field(default_factory=dict)

    def medians(self) -> dict[Candidate, float]:
        """Return the median seconds of each candidate that was timed."""
        return {candidate: statistics.median(times) for candidate, times in self.seconds.items()}

    def plan(self, chosen: Candidate, num_threads: int) -> NumericsPlan:
        """Return the plan of a candidate, with what was seen of all."""
        update = {
            "num_threads": num_threads,
            "seconds": {candidate.name: value for candidate, value in self.medians().items()},
            "rejected": self.rejected,
            "compile_seconds": self.compile_seconds.get(chosen),
        }
        return chosen.as_plan().model_copy(update=update)


class Watch:
    """Whether this process got the CPUs it asked for since it was made."""

    def __init__(self, trial: Trial, num_threads: int) -> None:
        self._num_threads = num_threads
        # A GPU goes on while its host waits.
        self._meter = WaitMeter(trial.clock, num_threads) if trial.device.type == "cpu" else None

    def refuse_if_disturbed(self, agreeing: Sequence[Candidate], rounds: Rounds) -> None:
        """Do nothing on a machine that was not busy.

        Raises:
            DisturbedError: Threads waited too long; its plan is the first of the candidates.
        """
        share = self._waiting_share()
        if share <= MAX_WAITING:
            return
        reason = f"not compared: threads waited for a CPU for {share:.0%} of the time"
        rounds.rejected |= {candidate.name: reason for candidate in agreeing[1:]}
        raise DisturbedError(rounds.plan(agreeing[0], self._num_threads))

    def is_disturbed(self) -> bool:
        """Return whether threads waited too long for timings to mean anything."""
        return self._waiting_share() > MAX_WAITING

    def _waiting_share(self) -> float:
        return (self._meter.fraction() if self._meter else None) or 0.0


def time_rounds(
    trial: Trial, agreeing: Sequence[Candidate], rounds: Rounds, deadline: float
) -> list[Candidate]:
    """Add timings round by round and return who stayed to the end, in the order given."""
    survivors = list(agreeing)
    latest = deadline + BUDGET_SECONDS
    for number in range(_MAX_ROUNDS):
        # A slow machine stretches everything: a few rounds more, not without end.
        if number and trial.clock() > (deadline if number >= _MIN_ROUNDS else latest):
            break
        for candidate in sorted(survivors, key=lambda c: c.memory_format):
            rounds.seconds.setdefault(candidate, []).append(trial.seconds(candidate))
        if number == 0:
            limit = _CLEARLY_SLOWER * min(times[0] for times in rounds.seconds.values())
            survivors = [c for c in survivors if rounds.seconds[c][0] < limit]
    return survivors


def choose(seconds: Mapping[Candidate, float]) -> Candidate:
    """Return the first candidate, in the order given, that is within 5% of the fastest.

    Args:
        seconds: Median per batch of the candidates that agree, in order of preference.
    """
    limit = min(seconds.values()) * (1 + MIN_GAIN)
    return next(candidate for candidate, value in seconds.items() if value <= limit)
