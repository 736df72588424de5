"""Strategies that fail on purpose, sources of nothing, and an `execute` that needs no torch.

Tests put this folder on the path; nothing installs it.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict

from bench.environment import device_class
from bench.errors import DivergedError
from bench.interfaces import Located, Missing
from bench.record import (
    Environment,
    Failure,
    PredictionSet,
    Progress,
    Recalled,
    Record,
    Scores,
    Status,
)
from bench.spec import BackboneSpec, DatasetSpec, Job, StrategySpec


class FaultSpec(StrategySpec):
    """Fields of every strategy here.

    Attributes:
        seconds: How long the cell takes, or how long between its steps.
        marker: File that gets a line with the pid when the cell starts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: float = 0.0
    marker: str | None = None


def _mark(spec: FaultSpec) -> None:
    if spec.marker:
        with Path(spec.marker).open("a") as file:
            file.write(f"{os.getpid()}\n")


def crash(spec: FaultSpec) -> None:
    """End as a bug in native code does."""
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(spec: FaultSpec) -> None:
    """Never end, and leave a process behind that would not either."""
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    time.sleep(600)


def stick(spec: FaultSpec) -> None:
    """Never end, in native code that lets no other thread of the process run."""
    sum(range(10**15))


def take_memory(spec: FaultSpec) -> None:
    """Hold ever more host memory, 8 MiB a step; stops at 4 GiB for the sake of the machine."""
    held = []
    for _ in range(512):
        held.append(bytearray(os.urandom(1 << 10) * (8 << 10)))
        time.sleep(0.01)
    raise AssertionError("4 GiB were held and nobody minded")


def diverge(spec: FaultSpec) -> None:
    """Raise what the training loop raises."""
    raise DivergedError("the loss is not finite at any of 1 settings (learning_rate 1e+20)")


def fail(spec: FaultSpec) -> None:
    """Raise what no cell expects."""
    raise ValueError("a fault on purpose")


def leave(spec: FaultSpec) -> None:
    """End the process behind Python's back."""
    os.write(2, b"leaving with code 7\n")
    os._exit(7)


def succeed(spec: FaultSpec) -> None:
    """Take the seconds asked for."""
    time.sleep(spec.seconds)


ACTIONS: dict[str, Callable[[FaultSpec], None]] = {
    "fake": succeed,
    "fault_crash": crash,
    "fault_diverge": diverge,
    "fault_error": fail,
    "fault_exit": leave,
    "fault_hang": hang,
    "fault_oom": take_memory,
    "fault_stuck": stick,
}


class NoBackbones:
    """Backbones that are only names; a checkpoint, where given, is a file they stand for."""

    prefix: ClassVar[str] = "faults"

    def names(self) -> tuple[str, ...]:
        return ("faults/lost", "faults/nothing")

    def check(self, spec: BackboneSpec) -> str | None:
        return None

    def locate(self, spec: BackboneSpec) -> Located:
        files = (Path(spec.checkpoint),) if spec.checkpoint else ()
        if spec.name == "faults/lost":
            lack = Missing("weights of faults/lost", "look under the sofa", downloadable=False)
            return Located(files=files, missing=(lack,))
        absent = tuple(
            Missing(f"weights {file}", "it comes") for file in files if not file.exists()
        )
        return Located(files=files, missing=absent)

    def load(self, spec: BackboneSpec, *, image_size: int | None, seed: int) -> Any:
        raise AssertionError("there is nothing to load")


class NoDatasets:
    """A dataset that is only a name."""

    prefix: ClassVar[str] = "faults"

    def names(self) -> tuple[str, ...]:
        return ("faults",)

    def check(self, spec: DatasetSpec) -> str | None:
        return None

    def locate(self, spec: DatasetSpec) -> Located:
        return Located()

    def load(self, spec: DatasetSpec, cache: Any) -> Any:
        raise AssertionError("there is nothing to load")


class Fault:
    """A strategy that does its action instead of adapting anything."""

    Spec: ClassVar[type[StrategySpec]] = FaultSpec
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "fails on purpose"
    trains_backbone: ClassVar[bool] = False
    action: ClassVar[str]

    def needs_val(self, spec: StrategySpec) -> bool:
        return False

    def adapt(self, task: Any, spec: StrategySpec) -> Any:
        assert isinstance(spec, FaultSpec)
        with task.runtime.phase("train"):
            _mark(spec)
            ACTIONS[self.action](spec)
        raise AssertionError(f"{self.action} does not adapt")


class FaultCrash(Fault):
    action = "fault_crash"


class FaultDiverge(Fault):
    action = "fault_diverge"


class FaultError(Fault):
    action = "fault_error"


class FaultExit(Fault):
    action = "fault_exit"


class FaultHang(Fault):
    action = "fault_hang"


class FaultOom(Fault):
    action = "fault_oom"


class FaultStuck(Fault):
    action = "fault_stuck"


class Fake(Fault):
    """Succeeds at once, under `execute` below only."""

    action = "fake"


def execute(job: Job, emit: Callable[[Progress], None]) -> Record | Recalled:
    """Run a cell whose strategy is one of these, without torch; same contract as the real one."""
    key = f"key of {job.cell.label}"
    if key in job.known_keys:
        return Recalled(request_key=job.request_key, key=key)
    spec = FaultSpec.model_validate(job.cell.strategy.model_dump())
    emit(Progress(phase="train", epoch=1, num_epochs=2, val_accuracy=0.5))
    _mark(spec)
    began = time.perf_counter()
    failure, status = None, Status.OK
    try:
        ACTIONS[spec.name](spec)
    except (DivergedError, ValueError) as error:
        status = Status.DIVERGED if isinstance(error, DivergedError) else Status.ERROR
        failure = Failure(kind=type(error).__name__, message=str(error), phase="train")
    return Record(
        key=key,
        request_key=job.request_key,
        run_id=job.run_id,
        cell=job.cell,
        status=status,
        failure=failure,
        started_at=datetime.now(UTC),
        test=_scores() if status is Status.OK else None,
        wall_seconds=time.perf_counter() - began,
        environment=_environment(job),
        predictions=(_predictions(),) if status is Status.OK else (),
    )


def _environment(job: Job) -> Environment:
    """Say what matters for a skip, and what tests ask about a child."""
    return Environment(
        device_class=device_class("cpu") if job.device == "cpu" else "none that is here",
        device_name=job.device,
        driver=None,
        cuda=None,
        cpu="unknown",
        num_cores=int(os.environ["OMP_NUM_THREADS"]),
        memory_bytes=1,
        host="here",
        platform="test",
        python="3",
        packages={"TOLD": os.environ.get("FAULTS_TOLD", "nothing")},
        git_revision=None,
        git_dirty=None,
    )


def _predictions() -> PredictionSet:
    return PredictionSet(
        split="test",
        num_examples=4,
        ids_digest="of four",
        ids=bytes(range(256)),
        labels=b"",
        predicted=b"",
        true_probability=b"",
        top5=b"",
    )


def answer_nonsense(job: Job, emit: Callable[[Progress], None]) -> str:
    """Answer with what is no record."""
    return "all went well"


def break_down(job: Job, emit: Callable[[Progress], None]) -> Record:
    """Raise where `execute` promises not to."""
    raise RuntimeError("execute itself is broken")


def linger(job: Job, emit: Callable[[Progress], None]) -> Record | Recalled:
    """Answer, and leave a thread that keeps the process from ending."""
    threading.Thread(target=time.sleep, args=(600,)).start()
    return execute(job, emit)


def _scores() -> Scores:
    return Scores(
        num_examples=4,
        accuracy=0.75,
        top5_accuracy=None,
        macro_f1=0.7,
        balanced_accuracy=0.7,
        nll=0.5,
        ece=0.1,
        per_class=(),
    )
