from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.cli.store import app
from bench.errors import UsageError
from bench.store import Parcel, RunInfo, Spool, default_patience, open_store, stores_waited_for
from bench.store.schema import display, hide_password, identity, parse_url
from tests.records import START, make_record


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


def test_a_sync_without_its_store_says_why_and_what_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("BENCH_SPOOL", str(tmp_path / "spool"))
    url = f"postgresql+psycopg://me@/db?host={tmp_path}"
    spool = Spool(identity(parse_url(url)))
    spool.put(Parcel("a" * 32, RunInfo(1, "0" * 32, "vision", START), make_record()))
    done = CliRunner().invoke(app, ["sync", "--store", url])
    assert done.exit_code == 3
    assert "problem: cannot open postgresql" in done.output
    assert "Is the server running" in done.output
    assert f"0 records delivered, 1 wait in {spool.folder}" in done.output


def test_what_waits_is_counted_by_store_and_a_damaged_spool_by_its_folder(tmp_path: Path):
    assert stores_waited_for(tmp_path) == {}
    run = RunInfo(1, "0" * 32, "vision", START)
    for number, name in enumerate(("a.db", "b.db", "b.db")):
        Spool(name, tmp_path).put(Parcel(f"{number:032}", run, make_record()))
    damaged = Spool("c.db", tmp_path).folder
    damaged.mkdir()
    (damaged / "1.json").write_text("{")
    expected = {"a.db": 1, "b.db": 2, f"the store of {damaged}": 1}
    assert stores_waited_for(tmp_path) == expected


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
