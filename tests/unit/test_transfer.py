"""What of downloads needs no network: progress, digests, settings, what a suite lacks."""

import errno
import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.downloads import Download, fetch_all, fetch_one, list_downloads
from bench.environment import find_snapshot
from bench.interfaces import HubFiles, Located, Missing
from bench.record import Progress
from bench.registry import fetch_method
from bench.spec import BackboneSpec, Cell, DatasetSpec, StrategySpec
from bench.transfer.cache import link_blob, write_reference
from bench.transfer.failures import Place, explain_failure
from bench.transfer.files import find_mismatch
from bench.transfer.settings import endpoint, timeout_seconds
from bench.transfer.tracking import Tracker
from tests.suite_plugins import TinyBackbones, registered_plugins

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeClock:
    """Time that passes when told to."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def test_progress_is_told_at_most_four_times_a_second_and_always_at_a_files_end() -> None:
    told: list[int | None] = []
    clock = FakeClock()
    tracker = Tracker(lambda p: told.append(p.num_bytes), "weights", 100, clock=clock)
    tracker.report(10)
    clock.now = 0.25
    tracker.report(20)
    tracker.report(25)
    tracker.finish(60)
    clock.now = 0.6
    tracker.report(5)
    assert told == [0, 20, 60, 65]


def test_content_is_known_by_its_sha256_a_beginning_of_it_or_gits_name(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"hello\n")
    sha = hashlib.sha256(b"hello\n").hexdigest()
    git = "ce013625030ba8dba906f756967f9e9ca394464a"  # echo hello | git hash-object --stdin
    for right in (sha, sha[:8], git, None, "an-etag-of-another-kind"):
        assert find_mismatch(path, right) is None
    assert find_mismatch(path, "0" * 64) == f"sha256 begins {sha[:8]}, not 00000000"
    assert find_mismatch(path, "0" * 8) == f"sha256 begins {sha[:8]}, not 00000000"
    assert find_mismatch(path, "0" * 40) == f"git's digest begins {git[:8]}, not 00000000"


def test_endpoint_and_seconds_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.delenv("HF_HUB_ETAG_TIMEOUT", raising=False)
    assert (endpoint(), timeout_seconds("HF_HUB_ETAG_TIMEOUT")) == ("https://huggingface.co", 10)
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    tries = (
        ("3", 3),
        ("30.5", 30.5),
        ("0", 10),
        ("-2", 10),
        ("inf", 10),
        ("nan", 10),
        ("soon", 10),
    )
    for given, seconds in tries:
        monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", given)
        assert timeout_seconds("HF_HUB_ETAG_TIMEOUT") == seconds
    assert endpoint() == "https://mirror.example"


def test_a_link_replaces_what_was_there_and_a_reference_leads_to_its_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "datasets--me--d"
    blob = folder / "blobs" / "x"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"whole")
    pointer = folder / "snapshots" / COMMIT / "sub" / "file"
    pointer.parent.mkdir(parents=True)
    pointer.symlink_to("nowhere")
    link_blob(blob, pointer)
    assert pointer.read_bytes() == b"whole"
    assert [path.name for path in pointer.parent.iterdir()] == ["file"]
    assert find_snapshot("me/d", "v1", kind="datasets") is None
    write_reference(HubFiles("me/d", "v1", kind="dataset"), COMMIT)
    assert find_snapshot("me/d", "v1", kind="datasets") == folder / "snapshots" / COMMIT


def cell(backbone: str, **dataset: int) -> Cell:
    return Cell(
        suite="s",
        backbone=BackboneSpec(name=backbone),
        dataset=DatasetSpec(name="torchvision/CIFAR10", **dataset),
        strategy=StrategySpec(name="dial"),
        seed=0,
    )


def test_what_cells_lack_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    with registered_plugins():
        listed = list_downloads(
            cell(f"tiny/{name}", train_examples=count)
            for name in ("resnet18.a1_in1k", "resnet50.a1_in1k")
            for count in (100, 200)
        )
    assert [(download.role, download.label) for download in listed] == [
        ("backbone", "weights of tiny/resnet50.a1_in1k"),
        ("dataset", "data of torchvision/CIFAR10"),
    ]


def test_a_source_that_fetches_nothing_says_how_to_get_it() -> None:
    with registered_plugins():
        spec = BackboneSpec(name="tiny/resnet50.a1_in1k")
        download = Download("backbone", spec, TinyBackbones().locate(spec).missing)
        assert fetch_method(download.source) is None
        assert fetch_one(download, lambda _: None) == (
            "missing: weights of tiny/resnet50.a1_in1k, and it cannot be fetched from here. "
            "To get it: hf download it"
        )


class Forgetful(TinyBackbones):
    """A source whose fetch brings nothing."""

    def fetch(self, spec: BackboneSpec, emit: object) -> None:
        """Bring nothing."""

    def locate(self, spec: BackboneSpec) -> Located:
        return Located(missing=(Missing("weights of x", "ask for them"),))


def test_what_is_still_missing_after_a_fetch_is_an_error() -> None:
    plugin = {"backbones": {"forgetful": "tests.unit.test_transfer:Forgetful"}}
    with registered_plugins(plugin):
        spec = BackboneSpec(name="forgetful/x")
        download = Download("backbone", spec, Forgetful().locate(spec).missing)
        told: list[Progress] = []
        error = fetch_one(download, told.append)
    assert error == "missing: weights of x, though it was fetched. To get it: ask for them"


@dataclass(frozen=True)
class Faulty(Download):
    """A download whose source is told by its name to end the process or to have a defect."""

    @property
    def source(self) -> "Faulty":
        """Stand for the source too."""
        return self

    def fetch(self, spec: BackboneSpec, emit: object) -> None:
        """End the process, or raise what is no error of ours."""
        if spec.name == "faulty/kill":
            os.write(1, b"about to end\n")
            os._exit(7)
        raise ZeroDivisionError("a defect")


def test_a_process_that_ends_amid_a_download_and_a_defect_of_a_source_are_told_for_each() -> None:
    names = ("faulty/defect", "faulty/kill", "faulty/after")
    downloads = [
        Faulty("backbone", BackboneSpec(name=name), (Missing(f"weights of {name}", "ask"),))
        for name in names
    ]
    ended = list(fetch_all(downloads, lambda download, progress: None))
    assert [each.position for each in ended] == [0, 1, 2]
    first, second, third = (each.error or "" for each in ended)
    assert first.startswith("weights of faulty/defect: Traceback")
    assert first.endswith("ZeroDivisionError: a defect\n")
    ending = "the process that downloads ended with exit code 7. It said last: about to end"
    assert (second, third) == tuple(f"weights of {name}: {ending}" for name in names[1:])


def test_a_full_disk_says_what_to_do() -> None:
    place = Place("weights of x", "https://example.org/x.pth")
    error = explain_failure(place, OSError(errno.ENOSPC, "No space left on device"))
    assert str(error) == (
        "weights of x could not be downloaded from https://example.org/x.pth: the disk is full. "
        "Make room, or move the caches with HF_HOME and TORCH_HOME."
    )


def test_nothing_of_downloads_imports_torch() -> None:
    code = (
        "import sys, bench.downloads, bench.cli.fetch, bench.transfer.sizes\n"
        "print([name for name in ('torch', 'timm', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
