"""Records <-> database; knows no table to print and no verdict.

Examples:
    >>> with open_store("results/bench.db") as store:  # doctest: +SKIP
    ...     records = store.records("vision")
"""

from bench.store.checking import StoreCheck, StoreState, check_store, look_at_store
from bench.store.database import Store
from bench.store.delivery import Delivered, Delivery, default_patience
from bench.store.opening import load_records, load_summaries, locate_store, open_store
from bench.store.spool import Parcel, RunInfo, Spool, stores_waited_for

__all__ = [
    "Delivered",
    "Delivery",
    "Parcel",
    "RunInfo",
    "Spool",
    "Store",
    "StoreCheck",
    "StoreState",
    "check_store",
    "default_patience",
    "load_records",
    "load_summaries",
    "locate_store",
    "look_at_store",
    "open_store",
    "stores_waited_for",
]
