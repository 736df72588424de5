"""Imports what every cell needs, once, in the server that cells are forked from; computes nothing.

A fork after a parallel torch operation hangs, and a fork is as good as the state it copies: so
this module imports and does no more. Its effects are bound to a variable that only the executor
sets, and only for its server; imported anywhere else it does nothing.
"""

import ctypes
import gc
import os
import signal
import sys
import warnings
from importlib import import_module

MODULES_VARIABLE = "BENCH_PRELOADING"
"""Space-separated modules, in the environment of the server only."""

DEFAULT_MODULES = ("torch", "torchvision", "timm", "transformers")

_PR_SET_PDEATHSIG = 1

failures: dict[str, str] = {}
"""Module -> why it does not import; cells report it, since a server has no voice of its own."""


def ask_for_death_signal() -> None:
    """Have the kernel kill this process when the process that started it ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _preload(modules: list[str]) -> None:
    ask_for_death_signal()
    # Ctrl-C reaches the whole terminal group; cells are ended by their parent alone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with warnings.catch_warnings():
        # An import's warning has no cell to be reported in and would tear the progress display.
        warnings.simplefilter("ignore")
        for name in modules:
            try:
                import_module(name)
            except Exception as error:  # reported by every cell, see `failures`
                failures[name] = f"{type(error).__name__}: {error}"
    # Objects that live as long as the server need no scan, which would copy their pages.
    gc.collect()
    gc.freeze()


if MODULES_VARIABLE in os.environ:
    _preload(os.environ.pop(MODULES_VARIABLE).split())
