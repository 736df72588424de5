"""``bench store``: is the store whole, and what of this machine still waits for it."""

from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from bench.errors import StoreUnavailableError

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_STORE = typer.Option("--store", help="Database file or URL; BENCH_STORE or results/bench.db.")
EXIT_INCOMPLETE = 3


@app.command(short_help="Is the store whole, and does anything wait for it?")
def check(store: Annotated[str | None, _STORE] = None) -> None:
    """Read every record of the store and count; exits 3 on damage or a spool that is not empty."""
    from bench.store import Spool, check_store, open_store

    with open_store(store, create=False) as opened:
        spool, found = Spool(opened.identity), check_store(opened)
    waiting = len(spool.paths())
    print(f"store     {found.name}\nserver    {found.server}\nlayout    {found.layout}")
    print(f"runs      {found.num_runs}\nrecords   {found.num_records}")
    print(f"predicted {found.num_predictions} sets\nspool     {waiting} records in {spool.folder}")
    for problem in found.problems:
        print(f"problem: {problem}")
    print("The store is damaged: restore a copy." if found.problems else "The store is whole.")
    if waiting:
        print("Deliver the spool with: bench store sync")
    if waiting or found.problems:
        raise typer.Exit(EXIT_INCOMPLETE)


@app.command(short_help="Deliver the records that this machine spooled.")
def sync(store: Annotated[str | None, _STORE] = None) -> None:
    """Bring spooled records to the store, each once; exits 3 when some could not be delivered."""
    from bench.errors import StoreUnavailableError
    from bench.store import Delivery, open_store

    try:
        opened = open_store(store)
    except StoreUnavailableError as error:
        _stop_with_waiting(store, error)
    with opened:
        done = Delivery(opened, say=print).deliver()
        print(f"{done.num_delivered} records delivered to {opened.name}, {done.num_left} left")
    for problem in done.problems:
        print(f"problem: {problem}")
    if done.num_left:
        raise typer.Exit(EXIT_INCOMPLETE)


def _stop_with_waiting(store: str | None, error: "StoreUnavailableError") -> NoReturn:
    """Say what waits for a store that cannot be opened; nothing of it was touched."""
    from bench.store import Spool, locate_store
    from bench.store.schema import identity

    spool = Spool(identity(locate_store(store)))
    print(f"problem: {error}\n0 records delivered, {len(spool.paths())} wait in {spool.folder}")
    raise typer.Exit(EXIT_INCOMPLETE) from error
