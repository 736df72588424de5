"""Processes that use one store at once: each is ready, then all go, so that they do meet."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]

_READY = """
import sys
from bench.store import open_store
from tests.records import make_record
print("ready", flush=True)
sys.stdin.readline()
"""
_WRITE = """
url, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with open_store(url) as store:
    run = store.latest_run("vision")
    for seed in range(first, first + count):
        store.add(make_record(seed=seed, run_id=run.id, predictions=True))
        print(seed, flush=True)
"""
_OPEN = """
with open_store(sys.argv[1]) as store:
    run = store.start_run("vision")
    store.add(make_record(run_id=run.id, predictions=True))
"""
_SYNC = """
from bench.cli.store import sync
sync(sys.argv[1])
"""


class Writer:
    """A process that does its part once it is told to go."""

    def __init__(self, code: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _READY + code, *map(str, arguments)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def go(self) -> None:
        """Let it begin; returns when it has been told."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def wait_ready(self) -> None:
        """Return when its imports are done."""
        assert self.read_line() == "ready"

    def read_line(self) -> str:
        """Return the next line that it says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def finish(self) -> str:
        """Return the rest of what it said, once it has ended well."""
        output, _ = self.process.communicate(timeout=280)
        assert self.process.returncode == 0
        return output

    def kill(self) -> str:
        """End it as ``kill -9`` does, and return the rest of what it had said."""
        self.process.kill()
        return self.process.communicate()[0]


def write_records(url: str, first: int, count: int) -> Writer:
    """Return one that adds records of these seeds to the latest run and says each."""
    return Writer(_WRITE, url, first, count)


def open_and_write(url: str) -> Writer:
    """Return one that opens a store, perhaps the first to do so, and adds a run with a record."""
    return Writer(_OPEN, url)


def sync_spool(url: str) -> Writer:
    """Return one that does what ``bench store sync`` does."""
    return Writer(_SYNC, url)


def go_at_once(writers: Sequence[Writer]) -> None:
    """Let all begin at the same moment."""
    for writer in writers:
        writer.wait_ready()
    for writer in writers:
        writer.go()
