"""Fixtures that several folders of tests share."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from bench.store import Store, open_store
from tests.postgres import schema_of_its_own, start_server

# A shell that runs the tests in the background has them ignore interrupts, and with them every
# process they start: tests that interrupt a sweep would wait for nothing.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Processes that test side by side have a core each: threads that share cores wait for each other.
_WORKER = os.environ.get("PYTEST_XDIST_WORKER")
if _WORKER is not None and hasattr(os, "sched_setaffinity"):
    _CORES = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_CORES[int(_WORKER.removeprefix("gw")) % len(_CORES)]})


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a server for the whole session; each test gets a schema of its own there."""
    named = os.environ.get("BENCH_TEST_POSTGRES")
    if named:
        yield named
        return
    server = start_server()
    yield server.url
    server.close()


@pytest.fixture(params=["sqlite", "postgres"])
def new_store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Give a function that names a new and empty database, of each kind in turn."""
    if request.param == "sqlite":
        numbers = count()
        yield lambda: str(tmp_path / f"results{next(numbers) or ''}" / "bench.db")
        return
    server = request.getfixturevalue("postgres_server")
    with ExitStack() as schemas:
        yield lambda: schemas.enter_context(schema_of_its_own(server))


@pytest.fixture
def store_url(new_store_url: Callable[[], str]) -> str:
    """The URL of an empty database of each kind."""
    return new_store_url()


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """An empty store of each kind."""
    with open_store(store_url) as opened:
        yield opened
