"""Records <-> database; knows no table to print and no verdict.

Examples:
    >>> with open_store("results/bench.db") as store:  # doctest: +SKIP
    ...     records = store.records("vision")
"""

from bench.store.database import RunInfo, Store
from bench.store.opening import load_records, load_summaries, open_store

__all__ = ["RunInfo", "Store", "load_records", "load_summaries", "open_store"]
