"""Records <-> database; knows no table to print and no verdict.

Examples:
    >>> with open_store("results/bench.db") as store:  # doctest: +SKIP
    ...     records = store.records("vision")
"""

from bench.store.checking import StoreCheck, check_store
from bench.store.database import Store
from bench.store.delivery import Delivered, Delivery, default_patience
from bench.store.opening import load_records, load_summaries, open_store
from bench.store.spool import Parcel, RunInfo, Spool

__all__ = [
    "Delivered",
    "Delivery",
    "Parcel",
    "RunInfo",
    "Spool",
    "Store",
    "StoreCheck",
    "check_store",
    "default_patience",
    "load_records",
    "load_summaries",
    "open_store",
]
