"""Where cells run: an executor takes jobs and yields records; it knows no store and no suite."""

from collections.abc import Callable, Generator, Iterable
from typing import Protocol, TypeAlias

from bench.record import Progress, Recalled, Record
from bench.spec import Job

OnProgress: TypeAlias = Callable[[Job, Progress], None]
Outcome: TypeAlias = tuple[Job, Record | Recalled]


class Executor(Protocol):
    """A place where cells run, each in a process of its own.

    Attributes:
        devices: ``cpu`` or ``cuda:N`` for each device that cells are given, all of one class.
    """

    devices: tuple[str, ...]

    def run(self, jobs: Iterable[Job], on_progress: OnProgress) -> Generator[Outcome, None, None]:
        """Yield each job with its result, as they end.

        Args:
            jobs: Taken one by one, each only when it can start at once and every result so far
                has been consumed: a lazy iterable decides late, with all that is known by then.
            on_progress: Called with the job as it is placed, when it starts and at each report.

        Raises:
            ExecutorError: Cells cannot be started here at all.
        """
        ...

    def close(self) -> None:
        """End every process that this executor started."""
        ...
