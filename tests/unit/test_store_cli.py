from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.cli.store import app
from bench.errors import UsageError
from bench.store import Parcel, Spool, default_patience, open_store
from bench.store.schema import display, hide_password, parse_url
from tests.records import make_record


def test_a_spool_is_counted_by_check_and_delivered_by_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("BENCH_SPOOL", str(tmp_path / "spool"))
    url = str(tmp_path / "bench.db")
    with open_store(url) as store:
        run = store.start_run("vision")
        Spool(store.identity).put(Parcel("a" * 32, run, make_record(run_id=run.id)))
    results = [
        CliRunner().invoke(app, [name, "--store", url])
        for name in ("check", "sync", "check", "sync")
    ]
    assert [result.exit_code for result in results] == [3, 0, 0, 0]
    assert "1 records in" in results[0].output
    assert "1 records delivered" in results[1].output
    assert "records   1\n" in results[2].output


def test_no_message_shows_a_password():
    url = "postgresql+psycopg://me:secret@host/db?password=secret"
    assert "secret" not in display(parse_url(url))
    assert "secret" not in hide_password("x://me:secret@host:port/db")


def test_patience_is_a_duration(monkeypatch: pytest.MonkeyPatch):
    for text, seconds in (("", 60.0), ("5m", 300.0), ("90", 90.0)):
        monkeypatch.setenv("BENCH_STORE_PATIENCE", text)
        assert default_patience() == seconds
    monkeypatch.setenv("BENCH_STORE_PATIENCE", "soon")
    with pytest.raises(UsageError, match="BENCH_STORE_PATIENCE: 'soon' is not a duration"):
        default_patience()
