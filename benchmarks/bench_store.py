"""Claim store: two processes write 1,000 records each to one store, none lost, none doubled.

Run: ``pytest -s benchmarks/bench_store.py``, about a minute; it prints what it found.
"""

from __future__ import annotations

import time

import pytest

from bench.store import StoreCheck, check_store, open_store
from benchmarks.measure import size
from benchmarks.results import Row
from tests.writers import go_at_once, write_records

_NUM_EACH = size(1000, 50)


@pytest.mark.parametrize("num_writers", [1, 2])
def test_writers_at_once_lose_and_double_nothing(claim, store_url, num_writers) -> None:  # type: ignore[no-untyped-def]
    def measure() -> list[Row]:
        seconds, check = _write(store_url, num_writers)
        total = num_writers * _NUM_EACH
        note = (
            f"{check.num_records} records and {check.num_predictions} sets of predictions of "
            f"{total} and {2 * total}, none twice; {total / seconds:.0f} records a second"
        )
        row = Row(
            "store",
            "one writer" if num_writers == 1 else f"{num_writers} writers at once",
            f"{check.server}, {_NUM_EACH:,} records each",
            seconds,
            unit="s",
            note=note,
        )
        print(f"\n{row.label}: {seconds:.1f} s; {note}")
        return [row]

    claim(measure)


def _write(url: str, num_writers: int) -> tuple[float, StoreCheck]:
    """Return the seconds from the moment they all may begin, and what the store then holds."""
    total = num_writers * _NUM_EACH
    with open_store(url) as store:
        store.start_run("vision")
        writers = [write_records(url, index * _NUM_EACH, _NUM_EACH) for index in range(num_writers)]
        go_at_once(writers)
        began = time.perf_counter()
        for writer in writers:
            writer.finish()
        seconds = time.perf_counter() - began
        check = check_store(store)
        assert [check.num_records, check.num_predictions] == [total, 2 * total]
        assert check.problems == ()
        seeds = sorted(record.cell.seed for record in store.records())
        assert seeds == list(range(total))
    return seconds, check
