"""``bench doctor``: what is here, what is missing, and what to do about it."""

import os
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from bench.environment import Problem
    from bench.store import StoreState

_OTHER_STORE = "Or name another store with BENCH_STORE, or unset it."
_NO_HARM = "Suites that do not use it run as ever."
_SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HOME", "TORCH_HOME", "BENCH_CACHE")


def doctor() -> None:
    """Check the environment; exits 3 when the default suite cannot run here."""
    from bench.environment import find_problems
    from bench.files import default_cache_dir

    cache_dir = default_cache_dir()
    store_rows, store_problems = _look_at_store()
    plugin_rows, plugin_problems = _look_at_plugins()
    for title, rows in (
        ("Environment", _environment_rows()),
        ("Places", _place_rows(cache_dir)),
        ("Store", store_rows),
        ("Samples", _sample_rows()),
        ("Plugins", plugin_rows),
        ("Numerics measured here", _plan_rows(cache_dir)),
    ):
        _print_section(title, rows)
    print("Checking that the libraries import …", flush=True)
    problems = (*store_problems, *find_problems(cache_dir), *plugin_problems)
    for problem in problems:
        print(f"{'broken' if problem.blocking else 'warning'}: {problem.what}\n  {problem.do}")
    if not problems:
        print("No problem found.")
    if any(problem.blocking for problem in problems):
        raise typer.Exit(3)


def _environment_rows() -> list[tuple[str, str]]:
    from bench.environment import collect_environment, device_name, list_devices

    devices = list_devices()
    here = collect_environment(devices[0], Path())
    state = {None: "not a git repository", True: "with changes", False: "clean"}[here.git_dirty]
    return [
        *((device, device_name(device)) for device in devices),
        ("cores", str(here.num_cores)),
        ("memory", _gibibytes(here.memory_bytes)),
        ("driver", here.driver or "none"),
        ("cuda", here.cuda or "none"),
        ("platform", here.platform),
        ("python", here.python),
        *here.packages.items(),
        ("project", f"{here.git_revision or Path.cwd()} ({state})"),
    ]


def _place_rows(cache_dir: Path) -> list[tuple[str, str]]:
    there = next(path for path in (cache_dir, *cache_dir.absolute().parents) if path.exists())
    free = _gibibytes(shutil.disk_usage(there).free)
    return [
        ("cache", f"{cache_dir} ({free} free)"),
        *((name, os.environ.get(name, "not set")) for name in _SWITCHES),
    ]


def _look_at_store() -> "tuple[list[tuple[str, str]], list[Problem]]":
    """Return the section on the store, and what is wrong with it."""
    from bench.environment import Problem
    from bench.errors import StoreError
    from bench.store import Spool, look_at_store

    try:
        state = look_at_store()
    except StoreError as error:
        return [], [Problem(str(error), _OTHER_STORE, blocking=True)]
    spool = Spool(state.identity)
    rows = [
        ("database", state.name),
        *_state_rows(state),
        ("spool", f"{len(spool.paths())} records wait in {spool.folder}"),
    ]
    problems = [Problem(f"store: {state.problem}", _OTHER_STORE, blocking=True)]
    return rows, [*(problems if state.problem else []), *_waiting(state.identity)]


def _state_rows(state: "StoreState") -> list[tuple[str, str]]:
    from bench.store.schema import LAYOUT_VERSION

    if state.problem is None and state.layout is None:
        rows = [("state", "no results yet; the first bench run makes the tables")]
    else:
        rows = [("state", "can be read and written" if state.problem is None else "see below")]
    if state.server is not None:
        rows.append(("server", state.server))
    if state.layout is not None:
        older = state.layout < LAYOUT_VERSION
        later = f", will be led to {LAYOUT_VERSION} when it is next opened" if older else ""
        rows.append(("layout", f"{state.layout}{later}"))
        rows.append(("content", f"{state.num_runs} runs, {state.num_records} records"))
    return rows


def _waiting(identity: str) -> "list[Problem]":
    """Return one problem per store that records of this machine wait for."""
    from bench.environment import Problem
    from bench.store import stores_waited_for

    problems = []
    for name, count in stores_waited_for().items():
        option = "" if name == identity else f" --store {shlex.quote(name)}"
        what = f"{count} {'record waits' if count == 1 else 'records wait'} here for {name}"
        problems.append(Problem(what, f"Deliver with: bench store sync{option}"))
    return problems


def _sample_rows() -> list[tuple[str, str]]:
    from bench.environment import SAMPLES, missing_samples

    missing = missing_samples()
    return [(name, "missing" if name in missing else "installed") for name in SAMPLES]


def _look_at_plugins() -> "tuple[list[tuple[str, str]], list[Problem]]":
    """Return the section on plugins, and what is wrong with them; nothing of it blocks."""
    from bench import registry
    from bench.environment import Problem

    states = registry.plugin_states()
    rows = [
        (f"{state.plugin.kind} {state.plugin.name}", f"{state.plugin.origin}: {state.word}")
        for state in states
    ]
    sentences = [state.problem for state in states if state.problem]
    return rows, [Problem(sentence, _NO_HARM) for sentence in dict.fromkeys(sentences)]


def _plan_rows(cache_dir: Path) -> list[tuple[str, str]]:
    from bench.environment import known_plans

    rows = []
    for key, plan in known_plans(cache_dir):
        shape = "x".join(map(str, key.get("shape", ())))
        weights = str(key.get("module", {}).get("weights", ""))[:12]
        place = f"{key.get('device_class', '?')}, torch {key.get('torch', '?')}"
        folded, compiled = " folded" if plan.folded else "", ""
        if plan.compiled:
            took = plan.compile_seconds
            compiled = " compiled" + (f" in {took:.1f} s" if took is not None else "")
        numerics = (
            f"{plan.precision} {plan.memory_format}{folded}{compiled}, {plan.num_threads} threads"
        )
        rows.append((f"{key.get('pass', '?')} {shape}", f"{numerics}, weights {weights}, {place}"))
    return rows


def _print_section(title: str, rows: list[tuple[str, str]]) -> None:
    width = max((len(name) for name, _ in rows), default=0)
    print(title)
    for name, value in rows or [("none", "")]:
        print(f"  {name:<{width}}  {value}".rstrip())
    print()


def _gibibytes(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 30):.1f} GiB"
