"""Candidates timed against each other, the choice remembered; knows not what a pass is."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from bench.environment import device_class
from bench.errors import StrategyError
from bench.interfaces import Runtime
from bench.meters import waiting_seconds
from bench.numerics.applied import REFERENCE, Candidate, MemoryFormat, Precision
from bench.numerics.trial import ForwardTrial, TrainTrial, Trial
from bench.record import NumericsPlan
from bench.spec import Numerics

MIN_GAIN = 0.05
MAX_WAITING = 0.1

_VERSION = 2
_BUDGET_SECONDS = 1.5
_CALL_SECONDS = 0.08
_MIN_BATCH = 8
_MIN_ROUNDS, _MAX_ROUNDS = 3, 9
_CLEARLY_SLOWER = 1.5


def plan_forward(
    module: nn.Module, inputs: Tensor, runtime: Runtime, *, key: Mapping[str, Any]
) -> NumericsPlan:
    """Return the numerics for forward passes in eval mode without gradient.

    The module, its mode and the random state are left as they were.

    Args:
        module: Inputs -> features or logits, shape (B, D).
        inputs: A batch as the pass will see it, float32, shape (B, ...), on the device.
        runtime: Gives policy, device, threads and the cache that remembers.
        key: JSON mapping that names the module: its weights digest, and what was cut or added.

    Raises:
        StrategyError: The policy asks for a precision that the device does not have.
    """
    return _plan(ForwardTrial(module, inputs, runtime.device), runtime, key)


def plan_train(
    module: nn.Module, inputs: Tensor, labels: Tensor, runtime: Runtime, *, key: Mapping[str, Any]
) -> NumericsPlan:
    """Return the numerics for training steps: forward, cross-entropy and backward.

    The update is left out: it is the same fp32 arithmetic under every candidate. Modes and
    ``requires_grad`` are taken as they stand, so call it on what will train. All of it happens on a
    copy: weights, buffers, gradients and the random state are left as they were.

    Args:
        module: Inputs -> logits, shape (B, K).
        inputs: A batch as a step will see it, float32, shape (B, ...), on the device.
        labels: Class indices in [0, K), int64, shape (B,), on the device.
        runtime: As for `plan_forward`.
        key: As for `plan_forward`; what trains should be part of it.

    Raises:
        StrategyError: The policy asks for a precision that the device does not have.
    """
    return _plan(TrainTrial(module, inputs, runtime.device, labels), runtime, key)


def _plan(trial: Trial, runtime: Runtime, key: Mapping[str, Any]) -> NumericsPlan:
    if runtime.numerics is not Numerics.AUTO:
        return _pinned(trial, runtime)
    cache_key = _cache_key(trial, runtime, key)
    measured = False

    def measure() -> Any:
        nonlocal measured
        measured = True
        offered = candidates(trial.device, trial.allows_channels_last)
        with trial.isolated():
            plan = _measure(trial, offered, runtime.num_threads)
        return plan.model_dump(mode="json")

    def settle() -> Any:
        try:
            return runtime.cache.json("numerics", cache_key, measure)
        except _DisturbedError as disturbed:
            return disturbed.plan.model_dump(mode="json")

    # What a run has begun with it keeps, though the machine be idle later.
    value = runtime.cache.json("numerics_of_run", cache_key, settle, run_bound=True)
    source = "measured" if measured else "recalled"
    return NumericsPlan.model_validate({**value, "source": source})


class _DisturbedError(Exception):
    """Other work disturbed the timings: they are not to be remembered beyond the run."""

    def __init__(self, plan: NumericsPlan) -> None:
        super().__init__("the machine was busy")
        self.plan = plan


def _pinned(trial: Trial, runtime: Runtime) -> NumericsPlan:
    precision = cast(Precision, runtime.numerics.value)
    available = _precisions(runtime.device)
    if precision not in available:
        raise StrategyError(
            f"numerics: {precision} cannot run on {device_class(str(runtime.device))}. "
            f"It has: {', '.join(available)}. Write numerics: auto, or one of these."
        )
    prefers_contiguous = precision == "fp32" and runtime.device.type == "cuda"
    last = trial.allows_channels_last and not prefers_contiguous
    return NumericsPlan(
        precision=precision,
        memory_format="channels_last" if last else "contiguous",
        num_threads=runtime.num_threads,
    )


def _precisions(device: torch.device) -> tuple[Precision, ...]:
    if device.type != "cuda":
        return ("fp32", "bf16")
    major = torch.cuda.get_device_capability(device)[0]
    return ("fp32", "tf32", "bf16", "fp16") if major >= 8 else ("fp32", "fp16")


def candidates(device: torch.device, allows_channels_last: bool) -> tuple[Candidate, ...]:
    """Return what `auto` may choose from on a device, in order of preference."""
    formats: tuple[MemoryFormat, ...] = ("channels_last", "contiguous")
    return tuple(
        Candidate(precision, memory_format)
        for precision in _precisions(device)
        for memory_format in formats[0 if allows_channels_last else 1 :]
    )


def _cache_key(trial: Trial, runtime: Runtime, key: Mapping[str, Any]) -> dict[str, Any]:
    trainable = sum(p.numel() for p in trial.module.parameters() if p.requires_grad)
    return {
        "version": _VERSION,
        "pass": trial.name,
        "module": dict(key),
        "shape": list(trial.inputs.shape),
        "num_trainable": trainable if trial.name == "train" else None,
        "device_class": device_class(str(runtime.device)),
        "num_threads": runtime.num_threads,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if runtime.device.type == "cuda" else None,
    }


@dataclass
class _Rounds:
    """Timings so far, and what was rejected."""

    seconds: dict[Candidate, list[float]] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)

    def medians(self) -> dict[Candidate, float]:
        return {candidate: statistics.median(times) for candidate, times in self.seconds.items()}

    def plan(self, chosen: Candidate, num_threads: int) -> NumericsPlan:
        update = {
            "num_threads": num_threads,
            "seconds": {candidate.name: value for candidate, value in self.medians().items()},
            "rejected": self.rejected,
        }
        return chosen.as_plan().model_copy(update=update)


def _measure(trial: Trial, offered: Sequence[Candidate], num_threads: int) -> NumericsPlan:
    """Return the plan; `_DisturbedError` carries the preferred one when timings mean nothing."""
    deadline = trial.clock() + _BUDGET_SECONDS
    rounds = _Rounds()
    watch = _Watch(trial, num_threads)
    _cut_to_budget(trial)
    watch.refuse_if_disturbed(offered, rounds)
    agreeing = _agreeing(trial, offered, rounds)
    watch = _Watch(trial, num_threads)
    survivors = _time_rounds(trial, agreeing, deadline, rounds)
    watch.refuse_if_disturbed(agreeing, rounds)
    medians = rounds.medians()
    return rounds.plan(choose({c: medians[c] for c in survivors}), num_threads)


class _Watch:
    """Whether this process got the CPUs it asked for since it was made."""

    def __init__(self, trial: Trial, num_threads: int) -> None:
        self._trial = trial
        self._num_threads = num_threads
        self._began, self._waited = trial.clock(), waiting_seconds()

    def refuse_if_disturbed(self, agreeing: Sequence[Candidate], rounds: _Rounds) -> None:
        """Raise with the first of the candidates as the plan if threads waited too long."""
        share = self._waiting_share()
        if share <= MAX_WAITING:
            return
        reason = f"not compared: threads waited for a CPU for {share:.0%} of the time"
        rounds.rejected |= {candidate.name: reason for candidate in agreeing[1:]}
        raise _DisturbedError(rounds.plan(agreeing[0], self._num_threads))

    def _waiting_share(self) -> float:
        now = waiting_seconds()
        # A GPU goes on while its host waits.
        if self._trial.device.type != "cpu" or now is None or self._waited is None:
            return 0.0
        thread_seconds = (self._trial.clock() - self._began) * self._num_threads
        return (now - self._waited) / max(thread_seconds, 1e-9)


def _time_rounds(
    trial: Trial, agreeing: Sequence[Candidate], deadline: float, rounds: _Rounds
) -> list[Candidate]:
    """Add timings round by round and return who stayed to the end, in the order given."""
    survivors = list(agreeing)
    latest = deadline + _BUDGET_SECONDS
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


def _cut_to_budget(trial: Trial) -> None:
    """Keep as many examples as one call may take the seconds for; all when there are few."""
    inputs, labels = trial.inputs, trial.labels
    trial.cut(_MIN_BATCH)
    trial.seconds(REFERENCE)
    per_example = trial.seconds(REFERENCE) / len(trial.inputs)
    trial.inputs, trial.labels = inputs, labels
    trial.cut(max(_MIN_BATCH, int(_CALL_SECONDS / per_example)))


def _agreeing(trial: Trial, offered: Sequence[Candidate], rounds: _Rounds) -> list[Candidate]:
    reference = trial.outcome(REFERENCE)
    agreeing = []
    for candidate in offered:
        reason = None if candidate == REFERENCE else _disagreement(trial, candidate, reference)
        if reason is None:
            agreeing.append(candidate)
        else:
            rounds.rejected[candidate.name] = reason
    return agreeing


def _disagreement(trial: Trial, candidate: Candidate, reference: tuple[Tensor, ...]) -> str | None:
    try:
        outcome = trial.outcome(candidate)
    except RuntimeError as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    if not all(bool(part.isfinite().all()) for part in outcome):
        return "not finite"
    return trial.disagreement(reference, outcome, candidate.precision)
