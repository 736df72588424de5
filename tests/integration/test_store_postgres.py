"""The store's tests that name no dialect, on a real PostgreSQL server."""

import inspect
from collections.abc import Callable

import pytest

from bench.store import Store, open_store
from tests.postgres import schema_of_its_own
from tests.unit import test_store

# Pragmas, files and the words of SQLite's errors.
_OF_SQLITE = ("PRAGMA", "sqlite", "BEGIN IMMEDIATE", "UNIQUE", "no such column", "process_time")


def _portable() -> list[Callable[[Store], None]]:
    return [
        each
        for name, each in vars(test_store).items()
        if name.startswith("test_")
        and list(inspect.signature(each).parameters) == ["store"]
        and not any(sign in inspect.getsource(each) for sign in _OF_SQLITE)
    ]


@pytest.fixture
def store(postgres_server: str):
    with schema_of_its_own(postgres_server) as url, open_store(url) as opened:
        yield opened
        opened.close()


@pytest.mark.parametrize("test", _portable(), ids=lambda test: test.__name__)
def test_postgresql_passes_the_same_test(test: Callable[[Store], None], store: Store):
    test(store)


def test_enough_of_the_tests_name_no_dialect():
    assert len(_portable()) >= 15
