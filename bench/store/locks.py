"""One runner per suite: a row in the database; knows no record."""

import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import psutil
from sqlalchemy import Engine, Row, delete, insert, select
from sqlalchemy.exc import IntegrityError

from bench.errors import StoreUnavailableError, SuiteLockedError
from bench.store.schema import display, locks, translated

# Start times are derived from the boot time, which a clock correction can shift a little.
_START_TOLERANCE_SECONDS = 2.0

_left: set[str] = set()
"""Tokens of locks that this process gave up and the database still holds."""


@contextmanager
def hold(engine: Engine, suite: str) -> Iterator[None]:
    """Hold a suite for this process.

    A lock whose process on this host has ended (pid and start time) is taken over.

    Raises:
        SuiteLockedError: Another runner holds it: says which process, where, since when.
    """
    token = uuid.uuid4().hex
    with translated(engine.url, "lock a suite in"):
        _acquire(engine, suite, token)
    try:
        yield
    finally:
        try:
            with translated(engine.url, "unlock a suite in"), engine.begin() as connection:
                connection.execute(delete(locks).where(locks.c.token == token))
        except StoreUnavailableError:
            # What was measured counts, not the lock: the next runner here takes it over.
            _left.add(token)


def _acquire(engine: Engine, suite: str, token: str) -> None:
    if _insert(engine, suite, token):
        return
    with engine.connect() as connection:
        holder = connection.execute(select(locks).where(locks.c.suite == suite)).first()
    if holder is not None:
        if not _is_gone(holder):
            raise SuiteLockedError(_describe(engine, holder))
        with engine.begin() as connection:
            connection.execute(delete(locks).where(locks.c.token == holder.token))
    if not _insert(engine, suite, token):
        raise SuiteLockedError(
            f"suite '{suite}' was locked by another runner just now. Wait for it to end."
        )


def _insert(engine: Engine, suite: str, token: str) -> bool:
    values = {
        "suite": suite,
        "token": token,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process_started": psutil.Process().create_time(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    try:
        with engine.begin() as connection:
            connection.execute(insert(locks).values(**values))
    except IntegrityError:
        return False
    return True


def _is_gone(holder: Row[Any]) -> bool:
    if holder.host != socket.gethostname():
        return False
    if holder.token in _left:
        return True
    try:
        started = psutil.Process(holder.pid).create_time()
    except psutil.NoSuchProcess:
        return True
    return bool(abs(started - holder.process_started) > _START_TOLERANCE_SECONDS)


def _describe(engine: Engine, holder: Row[Any]) -> str:
    message = (
        f"suite '{holder.suite}' is being run by process {holder.pid} on {holder.host} since "
        f"{holder.since}. Wait for it to end or stop it there."
    )
    if holder.host == socket.gethostname():
        return message
    return (
        f"{message} Should it be gone, free the suite in {display(engine.url)} with: "
        f"DELETE FROM locks WHERE token = '{holder.token}'"
    )
