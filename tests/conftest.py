"""Fixtures that several folders of tests share."""

import os
import signal

import pytest

from tests.postgres import schema_of_its_own, start_server

# A shell that runs the tests in the background has them ignore interrupts, and with them every
# process they start: tests that interrupt a sweep would wait for nothing.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres_server():
    named = os.environ.get("BENCH_TEST_POSTGRES")
    if named:
        yield named
        return
    server = start_server()
    yield server.url
    server.close()


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path):
    """The URL of an empty database of each kind."""
    if request.param == "sqlite":
        yield str(tmp_path / "results" / "bench.db")
        return
    with schema_of_its_own(request.getfixturevalue("postgres_server")) as url:
        yield url
