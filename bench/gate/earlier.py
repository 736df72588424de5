"""A store's runs of a suite, in short, newest first until there are enough; knows no verdict."""

from collections.abc import Collection, Mapping

from bench.gate.past import PastRun, merge_past, read_past
from bench.store import Store

_MOST_RUNS = 30
_MOST_RECORDS = 10_000
"""What takes two seconds to read. More runs than these hardly tell more of a spread."""


def earlier_runs(
    store: Store, suite: str, names: Mapping[str, str], *, without: Collection[int] = ()
) -> tuple[PastRun, ...]:
    """Return the newest runs of a suite that a store holds, oldest first.

    Args:
        store: Where runs are.
        suite: Whose.
        names: Identity -> name of the cells that count, see `label_records`.
        without: Numbers of runs to leave out.

    Raises:
        StoreError: The store cannot be read.
    """
    found: list[PastRun] = []
    num_records = 0
    for run in reversed(store.runs(suite)):
        if run.id in without:
            continue
        records = store.summaries(run_id=run.id)
        num_records += len(records)
        past = read_past(run.scope, records, names)
        found += [past] if past else []
        if len(found) >= _MOST_RUNS or num_records >= _MOST_RECORDS:
            break
    return merge_past(found)
