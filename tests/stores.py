"""What tests do to stores, on SQLite and PostgreSQL."""

from bench.store import Store

_FORBID = {
    "sqlite": ("PRAGMA query_only=ON", "PRAGMA query_only=OFF"),
    "postgresql": (
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    ),
}


def forbid_writes(store: Store, forbidden: bool = True) -> None:
    """Make the one connection of a store read-only, as a standby is, or lift that."""
    on, off = _FORBID[store._engine.dialect.name]
    with store._engine.begin() as connection:
        connection.exec_driver_sql(on if forbidden else off)
