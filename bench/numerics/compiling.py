"""A pass compiled for one batch shape, with all other shapes run eagerly; chooses no numerics.

Kernels come from `torch.compile` (inductor). Its pool of worker processes is off: what it starts
are C++ compilers in the cell's process group, which end with it. Kernels are kept in ``inductor``
under the artifact cache (``TORCHINDUCTOR_CACHE_DIR`` goes first): they move and are deleted with
it, and a cell that compiles what another has compiled before pays for tracing alone.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from bench.meters import is_out_of_memory
from bench.summary import NumericsPlan

Pass: TypeAlias = Callable[[Tensor], Tensor]

_CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
_REASON_LENGTH = 200
_GRAPHS = "_bench_graphs"


@dataclass
class CompileSite:
    """Where this process compiles, and what became of it.

    Attributes:
        phase: Opened as ``compile`` while something compiles.
        folder: Keeps kernels beyond the process; None leaves them where torch puts them.
        failures: Why a pass that was to be compiled runs eagerly, one line each.
    """

    phase: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext()
    folder: Path | None = None
    failures: list[str] = field(default_factory=list)


_site: ContextVar[CompileSite | None] = ContextVar("compile_site", default=None)


@contextmanager
def compiling_at(site: CompileSite) -> Iterator[CompileSite]:
    """Account for everything that compiles in the block at a site."""
    token = _site.set(site)
    try:
        with _kernels_in(site.folder):
            yield site
    finally:
        _site.reset(token)


@contextmanager
def _kernels_in(folder: Path | None) -> Iterator[None]:
    """Have inductor keep kernels in a folder, unless the user has named one."""
    before = os.environ.get(_CACHE_VARIABLE)
    if folder is None or not _is_default(before):
        yield
        return
    # Inductor takes it from nowhere else.
    os.environ[_CACHE_VARIABLE] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_CACHE_VARIABLE]
        else:
            os.environ[_CACHE_VARIABLE] = before


def _is_default(folder: str | None) -> bool:
    # Torch sets the variable itself, to its own choice, as soon as one of its modules looks at it.
    own = Path(tempfile.gettempdir()) / "torchinductor_"
    return folder is None or folder.startswith(str(own))


class CompiledPass:
    """A module's pass with a graph for one batch size.

    The graph runs batches of the one size and the module any other eagerly, such as a short last
    batch, so that nothing is compiled for it. A graph is made at the first such batch, once per
    module, mode, shape and plan; passes and epochs share it. A compiler that fails leaves the pass
    eager, and the reason at the `CompileSite`.

    Args:
        module: Inputs -> features or logits, with the plan applied to it.
        plan: In force in the pass.
        batch_size: Examples that a graph is made for; None takes those of the first batch.
        forgiving: Whether to go on eagerly where the compiler fails.
    """

    def __init__(
        self, module: nn.Module, plan: NumericsPlan, batch_size: int | None, forgiving: bool = True
    ) -> None:
        self._module = module
        self._numerics = (plan.precision, plan.memory_format)
        self._batch_size = batch_size
        self._forgiving = forgiving
        self._graphs: _Graphs = module.__dict__.setdefault(_GRAPHS, _Graphs())

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return what the module returns for the inputs, shape (B, ...)."""
        if self._batch_size is None:
            self._batch_size = len(inputs)
        if len(inputs) != self._batch_size:
            return self._eagerly(inputs)
        graph = self._graph(inputs)
        if graph.broken:
            return self._eagerly(inputs)
        try:
            return graph(inputs)
        except Exception as error:  # a compiler may raise anything, and must not end a cell
            if graph.ready or not self._forgiving or is_out_of_memory(error):
                raise
            graph.broken = True
            site = _site.get()
            if site is not None:
                reason = describe_compile_error(error)
                site.failures.append(f"a pass planned as compiled ran eagerly: {reason}")
            return self._eagerly(inputs)

    def _eagerly(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self._module(inputs)
        return outputs

    def _graph(self, inputs: Tensor) -> _Graph:
        # What decides whether a graph can be used again; the compiler's own guards know the rest.
        key = (
            *self._numerics,
            tuple(inputs.shape),
            self._module.training,
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
        )
        if key not in self._graphs:
            self._graphs[key] = _Graph(self._module, len(self._graphs), inputs.device)
        return self._graphs[key]


class _Graph:
    """One compiled pass of a module.

    Attributes:
        ready: Whether it has run.
        broken: Whether the compiler failed on it.
    """

    def __init__(self, module: nn.Module, number: int, device: torch.device) -> None:
        def run(inputs: Tensor) -> Tensor:
            outputs: Tensor = module(inputs)
            return outputs

        # The compiler counts graphs by code object and gives up after eight. With code of its own,
        # each of ours is counted alone.
        code = run.__code__.replace(co_name=f"pass_{number}")
        own = FunctionType(code, run.__globals__, code.co_name, None, run.__closure__)
        # More than one would start worker processes for Triton; C++ compilers run from threads.
        threads = torch.get_num_threads() if device.type == "cpu" else 1
        self._run: Pass = torch.compile(own, dynamic=False, options={"compile_threads": threads})
        self.ready = False
        self.broken = False

    def __call__(self, inputs: Tensor) -> Tensor:
        if self.ready:
            return self._run(inputs)
        site = _site.get() or CompileSite()
        with site.phase("compile"), warnings.catch_warnings():
            # They are about the compiler's own code.
            warnings.simplefilter("ignore")
            outputs = self._run(inputs)
        self.ready = True
        return outputs


class _Graphs(dict[Any, _Graph]):
    """Graphs of one module, kept on it; a copy of the module starts without any."""

    def __reduce__(self) -> tuple[type[_Graphs], tuple[()]]:
        return _Graphs, ()


def find_compiler() -> str | None:
    """Return the path of the C++ compiler that inductor would use, or None where there is none."""
    default = "clang++" if sys.platform == "darwin" else "g++"
    return shutil.which(os.environ.get("CXX") or default)


def describe_compile_error(error: Exception) -> str:
    """Return in one line why something did not compile."""
    cause = getattr(error, "inner_exception", error)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    # Of a C++ compiler's pages, the line that names the error.
    telling = next((line for line in lines if "error: " in line), lines[0] if lines else "")
    return f"{type(cause).__name__}: {telling}"[:_REASON_LENGTH]
