"""Who holds a suite, on SQLite and PostgreSQL, and what becomes of a lock whose holder died."""

import os
import signal
import subprocess
import sys

import pytest

from bench import open_store
from bench.errors import SuiteLockedError
from bench.store import Store


def test_a_suite_is_held_once_and_others_are_not(store_url: str, store: Store):
    with open_store(store_url) as second, store.lock("vision"):
        with second.lock("other"):
            pass
        held = rf"suite 'vision' is being run by process {os.getpid()} on .* since 20"
        with pytest.raises(SuiteLockedError, match=held), second.lock("vision"):
            pass
    with store.lock("vision"):
        pass


def test_a_lock_is_released_when_its_runner_fails(store: Store):
    with pytest.raises(ZeroDivisionError), store.lock("vision"):
        raise ZeroDivisionError
    with store.lock("vision"):
        pass


HOLD = """
import sys, time
from bench.store import open_store
with open_store(sys.argv[1]) as store, store.lock("vision"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_killed_process_is_taken_over(store_url: str, store: Store):
    command = [sys.executable, "-c", HOLD, store_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        with pytest.raises(SuiteLockedError, match=f"process {child.pid} "), store.lock("vision"):
            pass
        os.kill(child.pid, signal.SIGKILL)
    with store.lock("vision"):
        pass


def test_a_lock_whose_process_number_was_given_to_another_is_taken_over(store: Store):
    with store.lock("vision"):
        with store.writing() as connection:
            connection.exec_driver_sql("UPDATE locks SET process_started = process_started - 100")
        with store.lock("vision"):
            pass


def test_a_lock_of_another_host_says_how_to_free_it(store: Store):
    with store.lock("vision"):
        with store.writing() as connection:
            connection.exec_driver_sql("UPDATE locks SET host = 'elsewhere', pid = 1")
        with (
            pytest.raises(
                SuiteLockedError, match=r"on elsewhere since .*: DELETE FROM locks WHERE"
            ),
            store.lock("vision"),
        ):
            pass
