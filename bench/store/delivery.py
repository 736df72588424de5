"""Records -> the store, with patience, or the spool; knows no cell and no process."""

import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from bench.errors import StoreError, StoreUnavailableError, UsageError
from bench.record import Record
from bench.spec import parse_duration
from bench.store.database import Store
from bench.store.spool import Parcel, RunInfo, Spool

T = TypeVar("T")
Say = Callable[[str], None]

DEFAULT_PATIENCE_SECONDS = 60.0
"""How long a store that does not answer is asked again before records go to the spool."""

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 10.0


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

    After it has waited in vain once, it asks once per record until the store answers again.
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

    def attempt(self, action: Callable[[], T]) -> T:
        """Return what an action on the store gives, tried again while the store does not answer.

        Raises:
            StoreUnavailableError: It did not answer in time.
            StoreError: It refused.
        """
        deadline = time.monotonic() + (0.0 if self._lost else self._patience)
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                result = action()
            except StoreUnavailableError as error:
                left = deadline - time.monotonic()
                if left <= 0:
                    self._lost = True
                    raise
                self._say(f"{error} Trying again, for {left:.0f} s more.")
                self._sleep(min(pause, left))
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            else:
                self._lost = False
                return result

    def keep(self, record: Record, run: RunInfo) -> bool:
        """Store a record, or spool it and return False; earlier ones of the spool go first.

        Raises:
            StoreError: Neither the store nor the spool takes it.
        """
        token = uuid.uuid4().hex
        try:
            if self.spool.paths():
                self.deliver()
            self.attempt(lambda: self._store.add(record, token=token))
        except (StoreError, KeyboardInterrupt) as error:
            path = self.spool.put(Parcel(token, run, record))
            self._say(f"{error} The record is kept in {path}; deliver it with: bench store sync")
            if isinstance(error, KeyboardInterrupt):
                raise
            return False
        return True

    def deliver(self) -> Delivered:
        """Bring what is spooled to the store, each record once, until the store stops answering."""
        num_delivered, problems = 0, []
        for path in self.spool.paths():
            try:
                parcel = self.spool.read(path)
                self.attempt(lambda parcel=parcel: self._store.deliver(parcel))  # type: ignore[misc]
            except StoreUnavailableError as error:
                problems.append(str(error))
                break
            except StoreError as error:
                problems.append(f"{path.name}: {error}")
                continue
            path.unlink(missing_ok=True)
            num_delivered += 1
        return Delivered(num_delivered, len(self.spool.paths()), tuple(problems))
