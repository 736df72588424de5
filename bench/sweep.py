"""Cells -> records in the store, through an executor; knows neither torch nor what is printed.

Only this process writes to the store, and each record is there before the next cell starts: a
sweep can be killed at any time, and the same command then runs what is missing.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from bench.environment import collect_environment, device_class
from bench.errors import StoreUnavailableError, UsageError
from bench.executors import Executor
from bench.executors.devices import choose_devices
from bench.executors.local import LocalExecutor
from bench.record import NumericsPlan, Progress, Recalled, Record, Status
from bench.spec import Cell, Job, Limits
from bench.store import Delivery, RunInfo, Store, open_store
from bench.survey import forget_files, locate_cell, request_key

PlansOf: TypeAlias = Callable[[Cell, str], Mapping[str, NumericsPlan]]
"""Cell and class of device -> ``forward`` or ``train`` -> plan."""

StoppedBy: TypeAlias = Literal["total_time", "interrupt"]


@dataclass(frozen=True)
class SweepOptions:
    """How to sweep; none of it changes a number that is measured.

    Attributes:
        new: Start a new run and measure all again, instead of extending the suite's latest run.
        note: Why the run is made, kept with it.
        cache_dir: Root of the artifact cache; empty is the default one.
        project_dir: Folder of the suite, whose git revision is recorded.
        store_patience: Seconds a store that does not answer is asked again before records go to
            the spool; None is ``BENCH_STORE_PATIENCE`` or the default.
        plans: Gives the numerics plans that a cell reuses on a class of device; None where each is
            measured or recalled. See `bench.gate.night.baseline_plans`.
    """

    new: bool = False
    note: str = ""
    limits: Limits = field(default_factory=Limits)
    cache_dir: str = ""
    project_dir: str = "."
    store_patience: float | None = None
    plans: PlansOf | None = None


class SweepObserver(Protocol):
    """Is told how a sweep goes, for display."""

    def planned(self, pending: Sequence[Cell], num_held: int) -> None:
        """Take the cells to run, in order, and how many the run holds already."""
        ...

    def progressed(self, cell: Cell, progress: Progress) -> None:
        """Take what a running cell does now; the first is of phase ``start``."""
        ...

    def finished(self, cell: Cell, result: Record | Recalled) -> None:
        """Take the result of a cell, which is stored or spooled by then."""
        ...

    def warned(self, message: str) -> None:
        """Take what people should know now: the store does not answer, a record is spooled."""
        ...


class Silent:
    """An observer that shows nothing."""

    def planned(self, pending: Sequence[Cell], num_held: int) -> None:
        """Show nothing."""

    def progressed(self, cell: Cell, progress: Progress) -> None:
        """Show nothing."""

    def finished(self, cell: Cell, result: Record | Recalled) -> None:
        """Show nothing."""

    def warned(self, message: str) -> None:
        """Show nothing."""


@dataclass(frozen=True)
class SweepResult:
    """What a sweep did.

    Attributes:
        num_cells: Cells asked for.
        num_held: Of those, held by the run as `ok` before the sweep; nothing was started for them.
        num_recalled: Of those, started and then found to be held, under a key of equal content.
        records: Stored by this sweep, in the order they ended, without predictions.
        stopped_by: What kept it from starting every cell, or None.
        num_undelivered: Records of this machine that wait in the spool for the store.
    """

    run: RunInfo
    num_cells: int
    num_held: int
    num_recalled: int
    records: tuple[Record, ...]
    stopped_by: StoppedBy | None = None
    num_undelivered: int = 0

    @property
    def num_missing(self) -> int:
        """Cells with no result: never started, or ended by an interrupt."""
        return self.num_cells - self.num_held - self.num_recalled - len(self.records)

    @property
    def num_failed(self) -> int:
        """Records of this sweep that are not `ok`."""
        return sum(record.status is not Status.OK for record in self.records)

    @property
    def complete(self) -> bool:
        """Whether the run now holds an `ok` record of every cell, and nothing is in the spool."""
        return self.num_missing == self.num_failed == self.num_undelivered == 0


def run_sweep(
    cells: Sequence[Cell],
    *,
    store: Store | None = None,
    executor: Executor | None = None,
    options: SweepOptions | None = None,
    observer: SweepObserver | None = None,
) -> SweepResult:
    """Run the cells of one suite that its run lacks, and store each record as it comes.

    The suite is locked meanwhile. An interrupt (Ctrl-C) ends the running cells and is told in the
    result, not raised. Failed cells are records too; the next sweep tries them again.

    Args:
        cells: Of one suite, at least one.
        store: Where records go; None opens the default one.
        executor: Where cells run; None is this machine, one cell per device. Not closed if given.
        options: See `SweepOptions`.
        observer: Is told how it goes; None shows nothing.

    Raises:
        UsageError: No cells, or cells of several suites.
        SuiteLockedError: Another runner holds the suite.
        StoreError: The store cannot be read or written.
        ExecutorError: Cells cannot be started at all.
    """
    suite = _suite_of(cells)
    if store is None:
        with open_store() as opened:
            return run_sweep(
                cells, store=opened, executor=executor, options=options, observer=observer
            )
    if executor is None:
        with LocalExecutor(choose_devices()) as local:
            return run_sweep(cells, store=store, executor=local, options=options, observer=observer)
    with store.lock(suite):
        options, observer = options or SweepOptions(), observer or Silent()
        delivery = Delivery(store, patience=options.store_patience, say=observer.warned)
        _deliver_spooled(delivery, observer)
        return _Sweep(cells, delivery, executor, options, store).run(observer)


def _suite_of(cells: Sequence[Cell]) -> str:
    suites = sorted({cell.suite for cell in cells})
    if len(suites) == 1:
        return suites[0]
    if not suites:
        raise UsageError("no cells to run: the suite's excludes or --only leave nothing")
    raise UsageError(f"a sweep runs one suite at a time, got cells of: {', '.join(suites)}")


def _deliver_spooled(delivery: Delivery, observer: SweepObserver) -> None:
    """Bring what an earlier sweep could not store, so that its cells are not run again."""
    done = delivery.deliver()
    if done.num_delivered:
        observer.warned(f"{done.num_delivered} records of the spool were delivered")
    for problem in done.problems:
        observer.warned(problem)


class _Sweep:
    """One sweep under way."""

    def __init__(
        self,
        cells: Sequence[Cell],
        delivery: Delivery,
        executor: Executor,
        options: SweepOptions,
        store: Store,
    ) -> None:
        self._began = time.monotonic()
        self._store = store
        self._delivery = delivery
        self._executor = executor
        self._options = options
        self._num_cells = len(cells)
        self._run = self._choose_run(cells[0].suite)
        self._device_class = device_class(executor.devices[0])
        held = store.ok_request_keys(self._run.id, self._device_class)
        requests = [(cell, request_key(cell)) for cell in cells]
        self._pending = [(cell, key) for cell, key in requests if key not in held]
        self._records: list[Record] = []
        self._num_recalled = 0
        self._stopped_by: StoppedBy | None = None

    def _choose_run(self, suite: str) -> RunInfo:
        latest = None if self._options.new else self._store.latest_run(suite)
        return latest or self._store.start_run(suite, note=self._options.note)

    def run(self, observer: SweepObserver) -> SweepResult:
        observer.planned([cell for cell, _ in self._pending], self._num_held)
        incomplete = {key for cell, key in self._pending if locate_cell(cell).missing}
        try:
            self._run_pending(observer)
        except KeyboardInterrupt:
            self._stopped_by = "interrupt"
        self._remember_fetched(incomplete)
        return SweepResult(
            run=self._run,
            num_cells=self._num_cells,
            num_held=self._num_held,
            num_recalled=self._num_recalled,
            records=tuple(self._records),
            stopped_by=self._stopped_by,
            num_undelivered=self._delivery.deliver().num_left,
        )

    @property
    def _num_held(self) -> int:
        return self._num_cells - len(self._pending)

    def _run_pending(self, observer: SweepObserver) -> None:
        def report(job: Job, progress: Progress) -> None:
            observer.progressed(job.cell, progress)

        with closing(self._executor.run(self._jobs(), report)) as outcomes:
            for job, result in outcomes:
                self._keep(job, result)
                observer.finished(job.cell, result)

    def _jobs(self) -> Iterator[Job]:
        """Yield one job per pending cell, made when it can start, until time is up."""
        for cell, key in self._pending:
            if self._time_is_up():
                self._stopped_by = "total_time"
                return
            yield Job(
                cell=cell,
                run_id=self._run.id,
                run_scope=self._run.scope,
                request_key=key,
                known_keys=self._held_keys(cell),
                cache_dir=self._options.cache_dir,
                project_dir=self._options.project_dir,
                plans=self._plans(cell),
                limits=self._options.limits,
            )

    def _plans(self, cell: Cell) -> dict[str, str]:
        if self._options.plans is None:
            return {}
        plans = self._options.plans(cell, self._device_class)
        return {name: plan.model_dump_json() for name, plan in plans.items()}

    def _held_keys(self, cell: Cell) -> frozenset[str]:
        """Return keys under which the run holds this very cell.

        A cell of equal content but another name runs too: it has a row of its own, and shares all
        that is costly.
        """
        try:
            return self._delivery.attempt(
                lambda: self._store.ok_keys(self._run.id, self._device_class, cell=cell)
            )
        except StoreUnavailableError:
            return frozenset()  # At worst a cell is measured that the run holds.

    def _time_is_up(self) -> bool:
        total = self._options.limits.total_time
        return total is not None and time.monotonic() - self._began > total

    def _keep(self, job: Job, result: Record | Recalled) -> None:
        if isinstance(result, Recalled):
            self._remember(result.request_key, result.key)
            self._num_recalled += 1
            return
        if result.environment is None:
            # The child ended before it could say where it ran.
            where = collect_environment(job.device, Path(self._options.project_dir))
            result = result.model_copy(update={"environment": where})
        self._delivery.keep(result, self._run)
        # What is stored need not be held in memory for the length of a sweep.
        self._records.append(result.model_copy(update={"predictions": ()}))

    def _remember_fetched(self, incomplete: set[str]) -> None:
        """Note the keys of cells under what they are asked for by now.

        Files that a cell had to fetch are part of its request from then on.

        Args:
            incomplete: Request keys of cells whose files were not all here before.
        """
        fetched = [record for record in self._records if record.request_key in incomplete]
        if fetched:
            forget_files()
        for record in fetched:
            if record.status is Status.OK and record.key is not None:
                self._remember(request_key(record.cell), record.key)

    def _remember(self, request: str, key: str) -> None:
        # Without the note, a later sweep starts a process that finds the same key.
        with suppress(StoreUnavailableError):
            self._delivery.attempt(
                lambda: self._store.remember(self._run.id, request, key, self._device_class)
            )
