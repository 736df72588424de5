"""Candidates timed against each other, the choice remembered; knows not what a pass is."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from bench.environment import device_class
from bench.errors import StrategyError
from bench.interfaces import Runtime
from bench.numerics.applied import REFERENCE, Candidate, MemoryFormat, Precision
from bench.numerics.compiling import describe_compile_error, find_compiler
from bench.numerics.rounds import (
    BUDGET_SECONDS,
    DisturbedError,
    Rounds,
    Watch,
    choose,
    time_rounds,
)
from bench.numerics.trial import ForwardTrial, TrainTrial, Trial
from bench.record import NumericsPlan
from bench.spec import Numerics

_VERSION = 3
_CALL_SECONDS = 0.08
_MIN_BATCH = 8
_BATCH_SIZES = (8, 16, 32, 64)
_MIN_REPEATS = 3
_WORSE = 1.1


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
    pinned = None if runtime.numerics is Numerics.AUTO else _pinned(trial, runtime)
    if pinned is not None and not runtime.compile:
        return pinned
    reused = runtime.plans.get(trial.name)
    if reused is not None and reused.num_threads == runtime.num_threads and not runtime.compile:
        return reused.model_copy(update={"source": "baseline"})
    cache_key = _cache_key(trial, runtime, key)
    measured = False

    def measure() -> Any:
        nonlocal measured
        measured = True
        with trial.isolated():
            offered = candidates(trial.device, trial.allows_channels_last, folds=trial.folds)
            if pinned is not None:
                offered = (Candidate(pinned.precision, pinned.memory_format),)
            plan = _measure(trial, offered, runtime)
        return plan.model_dump(mode="json")

    def settle() -> Any:
        try:
            return runtime.cache.json("numerics", cache_key, measure)
        except DisturbedError as disturbed:
            return disturbed.plan.model_dump(mode="json")

    # What a run has begun with it keeps, though the machine be idle later.
    value = runtime.cache.json("numerics_of_run", cache_key, settle, run_bound=True)
    source = "measured" if measured else "recalled"
    return NumericsPlan.model_validate({**value, "source": source})


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


def candidates(
    device: torch.device, allows_channels_last: bool, *, folds: bool = False
) -> tuple[Candidate, ...]:
    """Return what `auto` may choose from on a device, in order of preference.

    Args:
        device: Where the pass runs.
        allows_channels_last: Whether that memory format means anything.
        folds: Whether batch norms can be folded; tried in channels_last, if that is allowed.
    """
    formats: list[tuple[MemoryFormat, bool]] = []
    if allows_channels_last:
        formats.append(("channels_last", False))
    if allows_channels_last and folds:
        formats.append(("channels_last", True))
    formats.append(("contiguous", False))
    return tuple(
        Candidate(precision, memory_format, folded=folded)
        for precision in _precisions(device)
        for memory_format, folded in formats
    )


def _cache_key(trial: Trial, runtime: Runtime, key: Mapping[str, Any]) -> dict[str, Any]:
    trainable = sum(p.numel() for p in trial.module.parameters() if p.requires_grad)
    # A machine that gets a compiler, or loses it, measures again.
    asked = {"compile": {"policy": runtime.numerics.value, "compiler": find_compiler()}}
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
        **(asked if runtime.compile else {}),
    }


def _measure(trial: Trial, offered: Sequence[Candidate], runtime: Runtime) -> NumericsPlan:
    """Return the plan; `DisturbedError` carries the preferred one when timings mean nothing."""
    rounds, whole = Rounds(), (trial.inputs, trial.labels)
    finalists = offered
    if len(offered) > 1:
        twins = [candidate.twin for candidate in offered] if runtime.compile else []
        finalists = _eager_finalists(trial, offered, twins, rounds, runtime.num_threads)
    if not runtime.compile:
        plan = rounds.plan(finalists[0], runtime.num_threads)
        trial.inputs, trial.labels = whole
        return plan.model_copy(update={"batch_size": _quickest_batch(trial, finalists[0], plan)})
    if trial.compile_refusal is not None:
        rounds.rejected["compiled"] = trial.compile_refusal
        return rounds.plan(finalists[0], runtime.num_threads)
    # Compiled for the shape that the pass will have, so all of them are timed on it.
    trial.inputs, trial.labels = whole
    return _compare_compiled(trial, finalists, rounds, runtime.num_threads)


def _eager_finalists(
    trial: Trial,
    offered: Sequence[Candidate],
    twins: Sequence[Candidate],
    rounds: Rounds,
    num_threads: int,
) -> tuple[Candidate, ...]:
    """Return the choice among eager candidates and, if that is another one, the fastest.

    Args:
        trial: Cut to as many examples as the budget allows.
        offered: In order of preference.
        twins: Not to be compared either if the machine is busy.
        rounds: Takes timings and rejections.
        num_threads: Of this process.
    """
    deadline = trial.clock() + BUDGET_SECONDS
    watch = Watch(trial, num_threads)
    _cut_to_budget(trial)
    watch.refuse_if_disturbed([*offered, *twins], rounds)
    agreeing = _agreeing(trial, offered, rounds)
    watch = Watch(trial, num_threads)
    survivors = time_rounds(trial, agreeing, rounds, deadline)
    watch.refuse_if_disturbed([*agreeing, *twins], rounds)
    medians = rounds.medians()
    chosen = choose({candidate: medians[candidate] for candidate in survivors})
    fastest = min(survivors, key=lambda candidate: medians[candidate])
    return (chosen,) if chosen == fastest else (chosen, fastest)


def _quickest_batch(trial: Trial, candidate: Candidate, plan: NumericsPlan) -> int | None:
    """Return at how many examples a forward pass takes least for each; None where it is not asked.

    Raises:
        DisturbedError: The machine was busy; it carries the plan without a batch size.
    """
    if trial.name != "forward" or trial.device.type != "cpu":
        return None
    inputs, watch = trial.inputs, Watch(trial, plan.num_threads)
    seconds: dict[int, float] = {}
    for size in (size for size in _BATCH_SIZES if size <= len(inputs)):
        trial.inputs = inputs[:size]
        times = [trial.seconds(candidate) for _ in range(_MIN_REPEATS)]
        seconds[size] = statistics.median(times) / size
        if seconds[size] > _WORSE * min(seconds.values()):
            break
    trial.inputs = inputs
    if watch.is_disturbed():
        raise DisturbedError(plan)
    return min(seconds, key=lambda size: seconds[size]) if seconds else None


def _compare_compiled(
    trial: Trial, finalists: Sequence[Candidate], before: Rounds, num_threads: int
) -> NumericsPlan:
    """Compile the finalists' twins and return the best of both; eager ones are preferred."""
    reference = trial.outcome(REFERENCE)
    rounds = Rounds(rejected=before.rejected)
    agreeing = []
    for candidate in (finalist.twin for finalist in finalists):
        reason = _compile(trial, candidate, reference, rounds)
        if reason is None:
            agreeing.append(candidate)
        else:
            rounds.rejected[candidate.name] = reason
    if not agreeing:
        before.rejected = rounds.rejected
        return before.plan(finalists[0], num_threads)
    watch = Watch(trial, num_threads)
    deadline = trial.clock() + BUDGET_SECONDS
    survivors = time_rounds(trial, [*finalists, *agreeing], rounds, deadline)
    watch.refuse_if_disturbed([finalists[0], *agreeing], rounds)
    medians = rounds.medians()
    return rounds.plan(choose({c: medians[c] for c in survivors}), num_threads)


def _compile(
    trial: Trial, candidate: Candidate, reference: tuple[Tensor, ...], rounds: Rounds
) -> str | None:
    """Compile a candidate by its first call and return why it cannot be chosen, or None."""
    began = trial.clock()
    try:
        trial.seconds(candidate)
        rounds.compile_seconds[candidate] = trial.clock() - began
        return _disagreement(trial, candidate, reference)
    except Exception as error:  # a compiler may raise anything, and must not end a cell
        return describe_compile_error(error)


def _cut_to_budget(trial: Trial) -> None:
    """Keep as many examples as one call may take the seconds for; all when there are few."""
    inputs, labels = trial.inputs, trial.labels
    trial.cut(_MIN_BATCH)
    trial.seconds(REFERENCE)
    per_example = trial.seconds(REFERENCE) / len(trial.inputs)
    trial.inputs, trial.labels = inputs, labels
    trial.cut(max(_MIN_BATCH, int(_CALL_SECONDS / per_example)))


def _agreeing(trial: Trial, offered: Sequence[Candidate], rounds: Rounds) -> list[Candidate]:
    reference = trial.outcome(REFERENCE)
    agreeing: list[Candidate] = []
    for candidate in offered:
        exact = replace(candidate, precision="fp32")
        if candidate == REFERENCE:
            reason = None
        elif candidate.folded and exact.name in rounds.rejected:
            reason = "folding is not exact in fp32"
        else:
            reason = _disagreement(trial, candidate, reference)
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
