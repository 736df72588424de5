"""Settings of every benchmark: their time limit, warnings of peers, and where results go."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.results import Row, save, unmet

# Fixtures: an empty database of each kind.
from tests.conftest import new_store_url, postgres_server, store_url  # noqa: F401

_TIMEOUT_SECONDS = 1800


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.timeout(_TIMEOUT_SECONDS))
            # Peers and loader workers warn about themselves, which is not what is measured.
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture
def claim(benchmark, request) -> Callable[[Callable[[], list[Row]]], list[Row]]:  # type: ignore[no-untyped-def]
    """Run a benchmark once, save its rows under its file's name, then hold it to its targets."""

    def run(measure: Callable[[], list[Row]]) -> list[Row]:
        rows: list[Row] = benchmark.pedantic(measure, rounds=1, iterations=1)
        name = f"{request.path.stem.removeprefix('bench_')}-{request.node.name}"
        save(re.sub(r"[^\w.-]+", "-", name).strip("-"), rows)
        benchmark.extra_info["ratios"] = {row.label: row.ratio for row in rows}
        missed = unmet(rows)
        assert not missed, "\n".join(missed)
        return rows

    return run
