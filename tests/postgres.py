"""A PostgreSQL server of the tests' own, or the one that BENCH_TEST_POSTGRES names."""

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url


class Server:
    """A private server that listens on a socket in its own folder only."""

    def __init__(self, binaries: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bench-pg-"))
        self._binaries = binaries
        # The server refuses to run as root; its package brings a user.
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user:
            shutil.chown(self.folder, self._user)
            self.folder.chmod(0o755)
        self._run("initdb", "--no-sync", "-A", "trust", "-U", "bench", "-E", "UTF8")
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://bench@/postgres?host={self.folder}"

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories='{self.folder}'"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-w", "-l", log, "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def stand_by(self) -> None:
        """Start again as a standby, which answers and takes no writes."""
        self.stop()
        (self.folder / "data" / "standby.signal").touch()
        self.start()

    def promote(self) -> None:
        """Make a standby the primary."""
        self._run("pg_ctl", "-w", "promote")

    def close(self) -> None:
        if (self.folder / "data" / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self.folder)

    def _run(self, program: str, *arguments: str) -> None:
        data = str(self.folder / "data")
        command = [str(self._binaries / program), "-D", data, *arguments]
        environ = {**os.environ, "LC_ALL": "C.UTF-8"}
        groups = [] if self._user else None
        with Path(os.devnull).open("w") as nowhere:
            subprocess.run(
                command,
                check=True,
                user=self._user,
                group=self._user,
                extra_groups=groups,
                cwd=self.folder,
                env=environ,
                stdout=nowhere,
            )


def start_server() -> Server:
    """Start a private server, or skip the test where PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        message = "no PostgreSQL here: apt-get install postgresql, or set BENCH_TEST_POSTGRES"
        if os.environ.get("BENCH_REQUIRE_POSTGRES"):
            pytest.fail(message)
        pytest.skip(message)
    return Server(found[-1].parent)


@contextmanager
def schema_of_its_own(url: str) -> Iterator[str]:
    """Give a URL whose tables are in a new schema, dropped afterwards."""
    name = f"bench_{uuid.uuid4().hex}"
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    own = make_url(url).update_query_dict({"options": f"-csearch_path={name}"})
    try:
        yield own.render_as_string(hide_password=False)
    finally:
        with engine.begin() as connection:
            # A connection that a test left open would be waited for without end.
            connection.exec_driver_sql("SET LOCAL lock_timeout = '10s'")
            connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")
        engine.dispose()
