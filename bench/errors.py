"""The exception tree; it knows messages, never where they are printed.

    BenchError                  printed without traceback
    ├── UsageError              a flag or argument is wrong            exit 2
    ├── SuiteError              every problem of a suite file at once  exit 2
    ├── BackboneError           a backbone cannot be loaded or used
    │   ├── WeightsMissingError   nothing on disk and no network: says what to download
    │   └── WeightsMismatchError  tensors that did not load, by name
    ├── DatasetError            data cannot be read or split
    ├── TransferError           a download did not arrive, or not whole  exit 3
    ├── StrategyError           a strategy cannot run as asked
    │   ├── ProbeError            the convex solver refuses its input
    │   └── DivergedError         the loss stopped being finite        status diverged
    ├── ArtifactError           a cached intermediate is unusable
    ├── StoreError              the database cannot be read or written
    │   ├── SuiteLockedError      another runner holds the suite
    │   └── StoreUnavailableError the database does not answer or takes nothing for now
    ├── BaselineError           no baseline that can be compared with  exit 4
    └── ExecutorError           a cell could not be started

Anything else that escapes is a bug of ours and keeps its traceback.
"""

from collections.abc import Sequence
from typing import ClassVar


class BenchError(Exception):
    """What went wrong, in one message a user can act on."""

    exit_code: ClassVar[int] = 2


class UsageError(BenchError):
    """A flag or an argument that cannot be honoured."""


class SuiteError(BenchError):
    """Every problem found in a suite file, each located as ``file:line: message``.

    Attributes:
        problems: The located messages in file order.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class BackboneError(BenchError):
    """A backbone that cannot be loaded or used as asked."""


class WeightsMissingError(BackboneError):
    """Weights that are not on this machine and cannot be fetched."""


class WeightsMismatchError(BackboneError):
    """Tensors that are missing, unexpected or of the wrong shape, by name."""


class DatasetError(BenchError):
    """Data that cannot be found, read or split."""


class TransferError(BenchError):
    """A download that did not arrive, or not as it was announced."""

    exit_code: ClassVar[int] = 3


class StrategyError(BenchError):
    """A strategy that cannot run on this backbone and data."""


class ProbeError(StrategyError):
    """Input that the convex probe solver refuses."""


class DivergedError(StrategyError):
    """Training whose loss stopped being finite at every point of the grid."""


class ArtifactError(BenchError):
    """A cached intermediate that is corrupt, locked or too large."""


class StoreError(BenchError):
    """A database that cannot be opened, read or written."""


class SuiteLockedError(StoreError):
    """A suite that another runner is executing."""


class BaselineError(BenchError):
    """A baseline that is not there, damaged, newer than this version, or of another suite."""

    exit_code: ClassVar[int] = 4


class StoreUnavailableError(StoreError):
    """A database that does not answer, or takes nothing for now: a later try may succeed."""


class ExecutorError(BenchError):
    """A cell that could not be started."""
