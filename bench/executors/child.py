"""The child's side: dies with its parent, runs one job, sends one result; it knows no torch.

What runs is named by a string, so that the parent can import this module and stay light.
"""

import faulthandler
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import forkserver, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from bench.executors.host import private_memory_bytes
from bench.executors.preload import ask_for_death_signal, failures
from bench.record import Progress

DUMP_SIGNAL = signal.SIGUSR1
"""Makes the child write where it stands into its log."""

SERVER_VARIABLES = ("PYTHONPATH", "PYTHONSAFEPATH")
"""Set for the server alone: a child finds modules by the path its parent has at that time."""


@dataclass(frozen=True)
class Launch:
    """What a child is given.

    Attributes:
        job: The pickled job; unpickled late, where a failure already has a log to go to.
        target: ``module:function`` that takes a job and an emit function.
        log: File for everything the child prints; the child unlinks it, the parent holds it open.
        environ: The environment of the parent, which the server's may differ from.
        num_threads: CPU threads.
    """

    job: bytes
    target: str
    log: str
    environ: dict[str, str]
    num_threads: int


@dataclass(frozen=True)
class Started:
    """A child's first message.

    Attributes:
        memory_bytes: Private resident memory before anything was done: the floor.
        preload_failures: Module -> why it does not import.
    """

    memory_bytes: int
    preload_failures: dict[str, str]


def main(launch: Launch, results: "Connection[Any, Any]") -> None:
    """Run one job and send `Started`, `Progress` ..., then its result.

    An exception goes to the log with its traceback and ends the child with exit code 1.
    """
    _outlive_nothing()
    _print_into(Path(launch.log))
    _take_environment(launch.environ)
    _use_threads(launch.num_threads)
    sending = threading.Lock()

    def send(message: Any) -> None:
        with sending:
            results.send(message)

    send(Started(private_memory_bytes(os.getpid()), dict(failures)))
    job = pickle.loads(launch.job)
    send(_resolve(launch.target)(job, send))


def _outlive_nothing() -> None:
    """Tie this process to its parent: a group of its own, a death signal, and a watch."""
    ask_for_death_signal()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.setsid()
    # Every child is given the handle that keeps the server alive. With it closed, the server ends
    # with the parent, and the death signal reaches a child whose threads are stuck in native code.
    server: Any = forkserver._forkserver
    if server._forkserver_alive_fd is not None:
        os.close(server._forkserver_alive_fd)
        server._forkserver_alive_fd = None
    threading.Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.killpg(0, signal.SIGKILL)


def _print_into(log: Path) -> None:
    """Send standard output and error, of native code too, into the log."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    log.unlink()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    faulthandler.enable(file=2, all_threads=False)
    faulthandler.register(DUMP_SIGNAL, file=2, all_threads=False)


def _take_environment(environ: dict[str, str]) -> None:
    """Take the parent's variables, over those that imports in the server have set."""
    for name in SERVER_VARIABLES:
        os.environ.pop(name, None)
    os.environ.update(environ)


def _use_threads(count: int) -> None:
    """Set the CPU threads of torch where it is loaded, and of what is loaded later."""
    os.environ["OMP_NUM_THREADS"] = str(count)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)


def _resolve(target: str) -> Callable[[Any, Callable[[Progress], None]], Any]:
    module, _, attribute = target.partition(":")
    function: Callable[[Any, Callable[[Progress], None]], Any] = getattr(
        import_module(module), attribute
    )
    return function
