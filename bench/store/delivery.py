"""Records -> the store, with patience, or the spool; knows no cell and no process."""

import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bench.errors import StoreError, StoreUnavailableError, UsageError
from bench.notation import parse_duration
from bench.record import Record
from bench.store.database import Store
from bench.store.spool import Parcel, RunInfo, Spool

T = TypeVar("T")
Say = Callable[[str], None]

DEFAULT_PATIENCE_SECONDS = 60.0
"""How long a store that does not answer is asked again before records go to the spool."""

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 10.0
_SYNC = "bench store sync"


def default_patience() -> float:
    """Return the seconds of ``BENCH_STORE_PATIENCE``, or the default.

    Raises:
        UsageError: It is set to something that is not a duration.
    """
    text = os.environ.get("BENCH_STORE_PATIENCE")
    if not text:
        return DEFAULT_PATIENCE_SECONDS
    try:
        return float(parse_duration(f"{text}s" if text[-1].isdigit() else text))
    except ValueError as error:
        raise UsageError(f"BENCH_STORE_PATIENCE: {error}") from error


@dataclass(frozen=True)
class Delivered:
    """What became of a spool.

    Attributes:
        num_delivered: Now in the store, and gone from the spool.
        num_left: Still in the spool.
        problems: Why, one message each.
    """

    num_delivered: int
    num_left: int
    problems: tuple[str, ...] = ()


class Delivery:
    """Stores records so that none is lost while the store does not answer.

    Once it has waited in vain it asks only once per record, until the store takes one again.
    """

    def __init__(
        self,
        store: Store,
        *,
        spool: Spool | None = None,
        patience: float | None = None,
        say: Say = lambda message: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.spool = spool or Spool(store.identity)
        self._store = store
        self._patience = default_patience() if patience is None else patience
        self._say = say
        self._sleep = sleep
        self._lost = False
        self._told = False

    def attempt(self, action: Callable[[], T]) -> T:
        """Return what an action on the store gives, tried again while the store does not answer.

        Raises:
            StoreUnavailableError: It did not answer in time.
            StoreError: It refused.
        """
        patience = 0.0 if self._lost else self._patience
        deadline = time.monotonic() + patience
        pause, said = _FIRST_PAUSE_SECONDS, False
        while True:
            try:
                return action()
            except StoreUnavailableError as error:
                left = deadline - time.monotonic()
                if left <= 0:
                    self._lost = True
                    raise
                if not said:
                    self._say(f"{error} Trying again, for up to {patience:.3g} s.")
                    said = True
                self._sleep(min(pause, left))
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def keep(self, record: Record, run: RunInfo) -> bool:
        """Store a record, or spool it and return False; earlier ones of the spool go first.

        Raises:
            StoreError: Neither the store nor the spool takes it.
        """
        token = uuid.uuid4().hex
        try:
            for path in self.spool.paths():
                self._bring(path)
            self._write(lambda: self._store.add(record, token=token))
        except (StoreError, KeyboardInterrupt) as error:
            self._put(Parcel(token, run, record), error)
            if isinstance(error, KeyboardInterrupt):
                raise
            return False
        return True

    def _write(self, action: Callable[[], bool]) -> None:
        """Do what `attempt` does; a store that takes a record, not one that is read, is back."""
        self.attempt(action)
        if self._told:
            self._say(f"{self._store.name} takes records again.")
        self._lost = self._told = False

    def _put(self, parcel: Parcel, cause: BaseException) -> None:
        """Spool a parcel and say why: once for as long as the store does not answer."""
        try:
            path = self.spool.put(parcel)
        except StoreError as error:
            raise StoreError(f"{cause} {error}".strip()) from error
        if not isinstance(cause, StoreUnavailableError):
            self._say(f"{cause} The record is kept in {path}; deliver it with: {_SYNC}".strip())
        elif not self._told:
            self._told = True
            name, patience = self._store.name, self._patience
            # Why was said when the wait began.
            why = f"{name} took nothing for {patience:.3g} s." if patience else str(cause)
            self._say(
                f"{why} Until it takes records again they are kept in {self.spool.folder}; "
                f"deliver them with: {_SYNC}"
            )

    def deliver(self) -> Delivered:
        """Bring what is spooled to the store, each record once, until the store stops answering."""
        num_delivered, problems = 0, []
        try:
            for path in self.spool.paths():
                problem = self._bring(path)
                if problem is None:
                    num_delivered += 1
                else:
                    problems.append(problem)
        except StoreUnavailableError as error:
            problems.append(str(error))
        return Delivered(num_delivered, len(self.spool.paths()), tuple(problems))

    def _bring(self, path: Path) -> str | None:
        """Bring one parcel to the store, or return why it is left where it is.

        Raises:
            StoreUnavailableError: The store does not answer.
        """
        try:
            parcel = self.spool.read(path)
            self._write(lambda: self._store.deliver(parcel))
        except StoreUnavailableError:
            raise
        except StoreError as error:
            # One that is gone was brought by another process at the same time.
            return f"{path.name}: {error}" if path.exists() else None
        path.unlink(missing_ok=True)
        return None
