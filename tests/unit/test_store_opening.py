"""Where a store is, and what is said of one that cannot be used."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from bench import load_records, open_store
from bench.errors import StoreError, StoreUnavailableError, UsageError
from bench.store import Store, look_at_store
from bench.store.opening import file_of
from bench.store.schema import LAYOUT_VERSION, parse_url
from tests.postgres import schema_of_its_own
from tests.records import make_record
from tests.stores import forbid_writes


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[Store]:
    with open_store(str(tmp_path / "bench.db")) as opened:
        yield opened


def _add(store: Store) -> int:
    run = store.start_run("vision")
    store.add(make_record(run_id=run.id))
    return run.id


def test_a_missing_database_is_named_with_the_command_that_makes_one(tmp_path: Path):
    path = tmp_path / "results" / "bench.db"
    with pytest.raises(StoreError, match=r"no results in .*bench\.db yet.*bench run suites/"):
        open_store(str(path), create=False)
    assert not path.parent.exists()


def test_a_database_without_our_tables_has_no_results(store_url: str):
    path = file_of(parse_url(store_url))
    if path:
        path.parent.mkdir(parents=True)
        path.touch()
    with pytest.raises(StoreError, match="no results in"):
        open_store(store_url, create=False)
    assert look_at_store(store_url).layout is None


def test_the_environment_names_the_store(
    store_url: str, store: Store, monkeypatch: pytest.MonkeyPatch
):
    _add(store)
    monkeypatch.setenv("BENCH_STORE", store_url)
    assert len(load_records("vision")) == 1


def test_an_unknown_suite_is_named_with_the_nearest(store_url: str, store: Store):
    store.start_run("vision")
    message = r"no results of suite 'visoin'.*Did you mean 'vision'\? Known: vision\."
    with pytest.raises(UsageError, match=message):
        load_records("visoin", url=store_url)


def test_the_python_api_reads_every_suite(store_url: str, store: Store):
    _add(store)
    assert len(load_records(url=store_url)) == 1


def test_a_url_that_is_none_says_what_to_write():
    with pytest.raises(StoreError, match=r"'://x' is not a database URL. Write a file name"):
        parse_url("://x")


def test_a_driver_that_is_not_installed_is_named():
    with pytest.raises(StoreError, match="no driver for postgresql"):
        open_store("postgresql+pg8000://host/name")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path):
    (tmp_path / "x.db").write_text("hello " * 500)
    with pytest.raises(StoreError, match=r"not a database. Move the file away"):
        open_store(str(tmp_path / "x.db"))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot open .*file/bench.db"):
        open_store(str(tmp_path / "file" / "bench.db"))


def test_a_full_disk_loses_nothing_that_was_stored(sqlite_store: Store):
    _add(sqlite_store)
    with sqlite_store.reading() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    big = make_record(seed=1, class_names=tuple(map(str, range(1000))))
    with pytest.raises(StoreError, match=r"disk is full. Free some space and re-issue"):
        sqlite_store.add(big)
    assert len(sqlite_store.records()) == 1


def test_a_locked_database_says_so(sqlite_store: Store):
    with sqlite_store.reading() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=50")
    with open_store(sqlite_store.name) as other, other.writing() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"database is locked. Another process is writing"):
            sqlite_store.start_run("vision")


_SAYS = {
    "sqlite": r"readonly database. Its file or folder is read-only: change that",
    "postgresql": r"in a read-only transaction. The server takes no writes now, as a standby does",
}


def test_a_read_only_store_says_so_and_is_still_read(store: Store):
    _add(store)
    forbid_writes(store)
    with pytest.raises(StoreUnavailableError, match=_SAYS[store._engine.dialect.name]):
        store.start_run("vision")
    with pytest.raises(StoreUnavailableError, match="cannot lock a suite in"), store.lock("vision"):
        pass
    assert len(store.records("vision")) == 1


def test_a_look_at_a_store_writes_nothing_and_counts(store_url: str, store: Store):
    assert _add(store) == 1
    state = look_at_store(store_url)
    assert (state.layout, state.num_runs, state.num_records) == (LAYOUT_VERSION, 1, 1)
    assert state.problem is None
    assert state.server is not None and state.server.split()[0] in ("SQLite", "PostgreSQL")
    assert (state.name, state.identity) == (store.name, store.identity)


def test_a_look_at_no_file_makes_none(tmp_path: Path):
    state = look_at_store(str(tmp_path / "a" / "b.db"))
    assert (state.server, state.layout, state.problem) == (None, None, None)
    assert list(tmp_path.iterdir()) == []


def test_a_look_at_a_store_that_cannot_be_used_says_why(tmp_path: Path, postgres_server: str):
    (tmp_path / "x.db").write_text("hello " * 500)
    problem = look_at_store(str(tmp_path / "x.db")).problem
    assert problem is not None and "file is not a database. Move the file away" in problem

    problem = look_at_store(f"postgresql+psycopg://me@/x?host={tmp_path}").problem
    assert problem is not None and "Is the server running, and can it be" in problem

    with schema_of_its_own(postgres_server) as url:
        open_store(url).close()
        options = f"{make_url(url).query['options']} -cdefault_transaction_read_only=on"
        standby = make_url(url).update_query_dict({"options": options})
        state = look_at_store(standby.render_as_string(hide_password=False))
        assert state.problem is not None and "The server takes no writes now" in state.problem
        assert state.layout == LAYOUT_VERSION
