"""`bench plan`, `bench fetch` and `bench run` against the stand-in hub, each as a real command."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.record import Record
from bench.store import open_store
from tests.hub_server import StandInHub, standing_in
from tests.integration.test_hub_downloads import model_files

__all__ = ["model_files"]

pytestmark = pytest.mark.slow

SUITE = """\
name: hubs
backbones: [{backbones}]
datasets: [{{name: digits, train_examples: 200}}]
strategies: [{{name: linear_probe, l2: 1.0}}]
image_size: 32
limits: {{profile_time: 1s}}
"""


@dataclass
class Desk:
    """A folder with a suite, and caches of its own."""

    folder: Path
    hub: StandInHub

    def write(self, *backbones: str) -> None:
        (self.folder / "s.yaml").write_text(SUITE.format(backbones=", ".join(backbones)))

    def start(
        self, *arguments: str, stderr: int = subprocess.PIPE, **variables: str
    ) -> subprocess.Popen[str]:
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "BENCH_"))}
        environ |= {
            "HF_ENDPOINT": self.hub.url,
            "HF_HOME": str(self.folder / "hf"),
            "TORCH_HOME": str(self.folder / "torch"),
            "BENCH_CACHE": str(self.folder / "cache"),
            "BENCH_DEVICE": "cpu",
            "BENCH_PRELOAD": "torch",
            "HF_HUB_DOWNLOAD_TIMEOUT": "1",
            "HF_HUB_ETAG_TIMEOUT": "1",
        }
        return subprocess.Popen(
            [sys.executable, "-m", "bench", *arguments],
            cwd=self.folder,
            env=environ | variables,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def bench(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **variables)
        out, err = process.communicate(timeout=240)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def records(self) -> dict[str, Record]:
        with open_store(str(self.folder / "results" / "bench.db"), create=False) as store:
            return {record.cell.backbone.name: record for record in store.records("hubs")}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with standing_in() as hub:
        yield Desk(tmp_path, hub)


def test_what_was_fetched_ahead_runs_with_the_network_refused_and_reads_the_same_commit(
    desk: Desk, model_files: dict[str, bytes]
) -> None:
    commit = desk.hub.add("me/tiny", model_files, branch="v1")
    desk.hub.add("me/tiny", {**model_files, "README.md": b"moved on"})
    desk.write("{name: hf/me/tiny, revision: v1}")
    plan = desk.bench("plan", "s.yaml")
    assert plan.returncode == 0
    size = sum(len(data) for name, data in model_files.items() if name != "pytorch_model.bin")
    assert (
        f"to download: weights of me/tiny ({size / 2**20:.1f} MiB), by the run its" in plan.stdout
    )
    assert "1 to download, 0.1 MiB in all. Ahead of a run: bench fetch s.yaml" in plan.stdout
    fetched = desk.bench("fetch", "s.yaml")
    assert fetched.returncode == 0, fetched.stderr
    assert re.search(r"^\[1/1\] weights of me/tiny  0\.1 MiB  [\d.]+s$", fetched.stdout, re.M)
    assert fetched.stdout.endswith("1 of 1 downloads are here\n")
    assert "downloading weights of me/tiny (0.1 MiB)" in fetched.stderr
    assert desk.bench("fetch", "s.yaml").stdout == "nothing to download: all of it is here\n"
    desk.hub.seen.clear()
    run = desk.bench("run", "s.yaml", HF_ENDPOINT="http://127.0.0.1:9")
    assert run.returncode == 0, run.stdout + run.stderr
    (record,) = desk.records().values()
    assert record.backbone is not None
    assert record.backbone.weights_source == f"hub me/tiny@{commit}"
    assert "download" not in record.seconds
    assert desk.hub.seen == []


def test_a_cell_does_without_what_another_program_left_out_where_the_hub_is_out_of_reach(
    desk: Desk, model_files: dict[str, bytes]
) -> None:
    commit = "0" * 40
    folder = desk.folder / "hf" / "hub" / "models--me--tiny"
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).write_bytes(model_files[name])
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    desk.write("{name: hf/me/tiny, mean: 0.5, std: 0.5}")
    away = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    plan = desk.bench("plan", "s.yaml", **away)
    assert "to download: any other files of me/tiny" in plan.stdout
    fetched = desk.bench("fetch", "s.yaml", **away)
    assert fetched.returncode == 3 and "it cannot be reached" in fetched.stderr
    run = desk.bench("run", "s.yaml", **away)
    assert run.returncode == 0, run.stdout + run.stderr
    (record,) = desk.records().values()
    assert record.backbone is not None and record.backbone.weights_source.endswith(
        f"@{commit}, perhaps without its preprocessor_config.json"
    )


def test_one_download_that_fails_does_not_keep_the_others_from_coming(
    desk: Desk, model_files: dict[str, bytes]
) -> None:
    for name in ("first", "second", "third"):
        desk.hub.add(f"me/{name}", model_files)
    desk.hub.fail("/me/second", 403)
    desk.write("hf/me/first", "hf/me/second", "hf/me/third")
    done = desk.bench("fetch", "s.yaml")
    assert done.returncode == 3
    errors = [line for line in done.stderr.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert errors[0].startswith("[2/3] error: weights of me/second could not be downloaded from ")
    assert "gated (403)" in errors[0]
    assert done.stdout.endswith("2 of 3 downloads are here\n")
    desk.hub.heal()
    again = desk.bench("fetch", "s.yaml")
    assert (again.returncode, again.stdout.splitlines()[-1]) == (0, "1 of 1 downloads are here")


def test_a_cell_whose_download_fails_is_a_record_of_that_error_and_the_others_are_ok(
    desk: Desk, model_files: dict[str, bytes]
) -> None:
    commit = desk.hub.add("me/good", model_files)
    desk.hub.add("me/bad", model_files | {"config.json": model_files["config.json"] + b" "})
    desk.hub.fail("GET /me/bad/resolve/.*/config.json", "wrong")
    desk.write("hf/me/bad", "hf/me/good")
    done = desk.bench("run", "s.yaml")
    assert done.returncode == 3, done.stderr
    records = desk.records()
    bad, good = records["hf/me/bad"], records["hf/me/good"]
    assert bad.status.value == "error"
    assert bad.failure is not None
    assert (bad.failure.kind, bad.failure.phase) == ("TransferError", "download")
    assert "git's digest begins" in bad.failure.message
    assert bad.failure.traceback == ""
    assert good.status.value == "ok"
    assert good.backbone is not None
    assert good.backbone.weights_source == f"hub me/good@{commit}"
    assert good.seconds["download"] > 0


def test_an_interrupted_fetch_goes_on_where_it_stopped(
    desk: Desk, model_files: dict[str, bytes]
) -> None:
    large = {**model_files, "model.safetensors": b"w" * (64 << 20)}
    desk.hub.add("me/large", large)
    desk.hub.bytes_per_second = 8 << 20
    desk.write("hf/me/large")
    process = desk.start("fetch", "s.yaml")
    wait_for_part(desk.folder)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors
    desk.hub.bytes_per_second = None
    done = desk.bench("fetch", "s.yaml")
    assert done.returncode == 0, done.stderr
    (asked,) = desk.hub.ranges()
    assert int(asked.removeprefix("bytes=").removesuffix("-")) >= 1 << 20


def wait_for_part(folder: Path) -> None:
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        if any(path.stat().st_size > 1 << 20 for path in folder.rglob("*.part")):
            return
        time.sleep(0.05)
    raise AssertionError("nothing has arrived")


def test_a_terminal_shows_the_bytes_of_a_download_and_a_pipe_gets_the_results(
    desk: Desk, model_files: dict[str, bytes]
) -> None:
    desk.hub.add("me/large", {**model_files, "model.safetensors": b"w" * (4 << 20)})
    desk.hub.bytes_per_second = 4 << 20
    desk.write("hf/me/large")
    terminal, theirs = os.openpty()
    process = desk.start("fetch", "s.yaml", stderr=theirs, TERM="xterm", COLUMNS="100")
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # Linux says so when the last process has left the terminal.
        while piece := os.read(terminal, 4096):
            shown += piece
    os.close(terminal)
    results, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert results.endswith("1 of 1 downloads are here\n")
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert re.search(r"weights of me/large ━*[╸╺]?━* +[0-3]\.\d/4\.0 MiB", text), text


def test_a_plan_does_not_wait_for_a_hub_that_hangs(
    desk: Desk, model_files: dict[str, bytes]
) -> None:
    desk.hub.add("me/tiny", model_files)
    desk.hub.fail("/", "hang")
    desk.write("hf/me/tiny", "timm/test_vit.r160_in1k")
    began = time.monotonic()
    done = desk.bench("plan", "s.yaml", HF_HUB_ETAG_TIMEOUT="600")
    assert time.monotonic() - began < 60
    assert done.returncode == 0
    assert "to download: weights of me/tiny (size unknown)" in done.stdout
    assert "2 to download, 0.0 MiB in all, and 2 of unknown size." in done.stdout


def test_offline_a_fetch_says_that_downloads_are_forbidden(desk: Desk) -> None:
    desk.write("hf/me/tiny")
    done = desk.bench("fetch", "s.yaml", HF_HUB_OFFLINE="1")
    assert done.returncode == 3
    assert "error: missing: weights of me/tiny, and HF_HUB_OFFLINE is set. To get" in done.stderr
    assert desk.hub.seen == []
