"""Everything a suite needs from the network, fetched ahead in one child process; no display.

The child may import torch, which some sources need to fetch; this process does not.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

from bench import registry
from bench.environment import is_offline
from bench.errors import BenchError
from bench.executors import child
from bench.executors.failures import last_lines
from bench.executors.supervision import without_main
from bench.interfaces import BackboneSource, DatasetSource, Missing
from bench.record import Progress
from bench.spec import BackboneSpec, Cell, DatasetSpec

OnProgress: TypeAlias = Callable[["Download", Progress], None]


@dataclass(frozen=True)
class Download:
    """A backbone or a dataset of which something is not on this machine.

    Attributes:
        role: What it is to a suite.
        spec: As its source takes it.
        missing: What its source misses.
    """

    role: Literal["backbone", "dataset"]
    spec: BackboneSpec | DatasetSpec
    missing: tuple[Missing, ...]

    @property
    def label(self) -> str:
        """What is missing, for people."""
        return ", ".join(lack.what for lack in self.missing)

    @property
    def source(self) -> BackboneSource | DatasetSource:
        """Where it comes from."""
        find = registry.backbone_source if self.role == "backbone" else registry.dataset_source
        return find(self.spec.name)


@dataclass(frozen=True)
class Fetched:
    """How a download ended.

    Attributes:
        position: Of the download, in the order given.
        seconds: It took.
        error: Why it is not here; None where it is.
        num_bytes: Of its files that are here now.
    """

    position: int
    seconds: float
    error: str | None = None
    num_bytes: int = 0


def list_downloads(cells: Iterable[Cell]) -> tuple[Download, ...]:
    """Return what some cells lack on this machine, each once.

    Datasets that differ in how much of them is used are one download.
    """
    found: dict[tuple[Missing, ...], Download] = {}
    pairs = tuple((cell.backbone, cell.dataset) for cell in cells)
    backbones = dict.fromkeys(backbone for backbone, _ in pairs)
    datasets = dict.fromkeys(dataset for _, dataset in pairs)
    for backbone in backbones:
        missing = registry.backbone_source(backbone.name).locate(backbone).missing
        found.setdefault(missing, Download("backbone", backbone, missing))
    for dataset in datasets:
        missing = registry.dataset_source(dataset.name).locate(dataset).missing
        found.setdefault(missing, Download("dataset", dataset, missing))
    found.pop((), None)
    return tuple(found.values())


def fetch_all(
    downloads: Sequence[Download], on_progress: OnProgress
) -> Generator[Fetched, None, None]:
    """Yield how each download ended; one that fails does not keep the others from coming.

    Closing the generator, or an exception in it, ends the child at once; what has arrived is kept.

    Args:
        downloads: One after another.
        on_progress: Called with a download as it goes on.
    """
    done = 0
    with tempfile.NamedTemporaryFile(prefix="bench-fetch-", delete=False) as log:
        with _started(downloads, log.name) as (process, results):
            for message in _messages(results):
                if isinstance(message, Progress):
                    on_progress(downloads[done], message)
                elif isinstance(message, Fetched):
                    done += 1
                    yield message
            process.join()
        if done < len(downloads):
            why = _describe_end(process.exitcode, log)
            for position in range(done, len(downloads)):
                yield Fetched(position, 0.0, f"{downloads[position].label}: {why}")


@contextmanager
def _started(
    downloads: Sequence[Download], log: str
) -> Generator[tuple[Any, Connection[Any, Any]], None, None]:
    """Start the child, and end it with the block."""
    context = multiprocessing.get_context("spawn")
    results, theirs = context.Pipe(duplex=False)
    launch = child.Launch(
        job=pickle.dumps(tuple(downloads)),
        target=f"{__name__}:fetch_in_child",
        log=log,
        environ=dict(os.environ),
        num_threads=1,
    )
    process = context.Process(target=child.main, args=(launch, theirs), daemon=False)
    try:
        with without_main():
            process.start()
        theirs.close()
        yield process, results
    finally:
        results.close()
        if process.is_alive():
            process.kill()
        process.join()
        Path(log).unlink(missing_ok=True)


def _messages(results: Connection[Any, Any]) -> Generator[Any, None, None]:
    """Yield what the child says until it has done all, or is gone."""
    while True:
        try:
            message = results.recv()
        except EOFError:
            return
        if message is None:
            return
        yield message


def _describe_end(exit_code: int | None, log: IO[bytes]) -> str:
    log.seek(0)
    last = last_lines(log.read().decode(errors="replace").splitlines())
    return f"the process that downloads ended with exit code {exit_code}. It said last: {last}"


def fetch_in_child(downloads: Sequence[Download], send: Callable[[Any], None]) -> None:
    """Fetch one after another and send how each ended: the child's side of `fetch_all`."""
    for position, download in enumerate(downloads):
        began = time.perf_counter()
        try:
            error = fetch_one(download, send)
        except Exception:  # A defect of one source, told with its traceback; the others go on.
            error = f"{download.label}: {traceback.format_exc()}"
        seconds = time.perf_counter() - began
        send(Fetched(position, seconds, error, 0 if error else _size_here(download)))


def fetch_one(download: Download, emit: Callable[[Progress], None]) -> str | None:
    """Fetch a backbone or a dataset; return why it is not here, or None."""
    fetch = registry.fetch_method(download.source)
    blocked = next((lack for lack in download.missing if not lack.downloadable), None)
    if blocked is not None or fetch is None:
        lack = blocked or download.missing[0]
        why = "HF_HUB_OFFLINE is set" if is_offline() else "it cannot be fetched from here"
        return f"missing: {lack.what}, and {why}. To get it: {lack.how}"
    try:
        fetch(download.spec, emit)
    except BenchError as error:
        return str(error)
    left = download.source.locate(download.spec).missing  # type: ignore[arg-type]
    if left:
        return f"missing: {left[0].what}, though it was fetched. To get it: {left[0].how}"
    return None


def _size_here(download: Download) -> int:
    """Return the bytes of a download's files and folders."""
    paths = download.source.locate(download.spec).files  # type: ignore[arg-type]
    inside = (p for path in paths for p in (path.rglob("*") if path.is_dir() else (path,)))
    return sum(path.stat().st_size for path in inside if path.is_file())
