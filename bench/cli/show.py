"""``bench show`` and ``bench explain``: one record whole; why two keys differ."""

from typing import Annotated

import typer

_KEY = "Key or request key of a record, or its first digits."
_STORE = "Database: file name or URL."


def show(
    key: Annotated[str, typer.Argument(help=_KEY)],
    as_json: Annotated[bool, typer.Option("--json", help="The record as JSON.")] = False,
    store: Annotated[str | None, typer.Option(help=_STORE)] = None,
) -> None:
    """Print everything that was measured for one cell."""
    from bench.store import open_store
    from bench.tables.detail import record_text

    with open_store(store, create=False) as opened:
        record = opened.get(key)
    print(record.model_dump_json(indent=2) if as_json else record_text(record).rstrip())


def explain(
    first: Annotated[str, typer.Argument(metavar="A", help=_KEY)],
    second: Annotated[str, typer.Argument(metavar="B", help=_KEY)],
    store: Annotated[str | None, typer.Option(help=_STORE)] = None,
) -> None:
    """Print why the keys of two records differ."""
    from bench.compare import explain_keys
    from bench.store import open_store
    from bench.tables.detail import explanation

    with open_store(store, create=False) as opened:
        records = opened.get(first), opened.get(second)
    print(explanation(explain_keys(*records)), end="")
