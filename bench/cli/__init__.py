"""Flags in, one call, exit code out; commands hold no logic and import their work when called."""

import sys

import typer

from bench.errors import BenchError


def make_app() -> typer.Typer:
    """Return the command line with every command."""
    from bench.cli import (
        baseline,
        compare,
        doctor,
        fetch,
        history,
        list_names,
        plan,
        report,
        run,
        schema,
        show,
        splits,
        store,
    )
    from bench.cli import table as table_command

    app = typer.Typer(
        name="bench",
        help="Which pretrained backbone, adapted how, for my data and my budget?",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for name, short, function in (
        ("run", "Sweep a suite, print the table, write the report.", run.run),
        ("plan", "What would run, and what is missing here.", plan.plan),
        ("fetch", "Download all a suite needs, ahead of a run.", fetch.fetch),
        ("table", "The results, in six formats.", table_command.table),
        ("report", "The HTML report again.", report.report),
        ("list", "What can go in a suite.", list_names.list_names),
        ("show", "One record, whole.", show.show),
        ("explain", "Why the keys of two records differ.", show.explain),
        ("compare", "A run against a baseline: the nightly gate.", compare.compare),
        ("history", "A suite from run to run: levels, steps.", history.history),
        ("doctor", "Check this machine and installation.", doctor.doctor),
        ("schema", "The JSON Schema of suite files.", schema.schema),
    ):
        app.command(name, short_help=short)(function)
    app.add_typer(baseline.app, name="baseline", help="Runs kept as the reference of later ones.")
    app.add_typer(splits.app, name="splits", help="Which examples are train, val and test.")
    app.add_typer(store.app, name="store", help="Check the store; deliver spooled records.")
    return app


def main() -> None:
    """Run the command line; a `BenchError` is one message and its exit code, never a traceback."""
    app = make_app()
    try:
        app()
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception:
        # Libraries look through the entry points of everything installed, and name none of it.
        from bench.entry_points import describe_damage

        damage = describe_damage()
        if damage is None:
            raise
        print(f"error: {damage}", file=sys.stderr)
        sys.exit(BenchError.exit_code)
