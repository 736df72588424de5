"""Flags in, one call, exit code out; commands hold no logic and import their work when called."""

import sys

import typer

from bench.errors import BenchError

app = typer.Typer(
    name="bench",
    help="Which pretrained backbone, adapted how, for my data and my budget?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _add_commands() -> None:
    from bench.cli import doctor, list_names, plan, report, run, schema, show, table

    app.command("run")(run.run)
    app.command("plan")(plan.plan)
    app.command("table")(table.table)
    app.command("report")(report.report)
    app.command("list")(list_names.list_names)
    app.command("show")(show.show)
    app.command("explain")(show.explain)
    app.command("doctor")(doctor.doctor)
    app.command("schema")(schema.schema)


def main() -> None:
    """Run the command line; a `BenchError` is one message and its exit code, never a traceback."""
    _add_commands()
    try:
        app()
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
