"""``bench baseline``: a run kept as the reference of later nights, small enough to commit."""

from typing import Annotated

import typer

_FEW_RUNS = 5

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.command()
def save(
    name: Annotated[str, typer.Argument(help="Of the file results/baselines/NAME.json.")],
    suite: Annotated[
        str | None, typer.Option("--from", help="Suite whose latest run is kept; by default NAME.")
    ] = None,
    store: Annotated[str | None, typer.Option(help="Database: file name or URL.")] = None,
    note: Annotated[str, typer.Option(help="Why it was saved, kept with it.")] = "",
    allow_failed: Annotated[
        bool, typer.Option("--allow-failed", help="Also keep a run that is incomplete.")
    ] = False,
    runs: Annotated[
        int, typer.Option(min=1, help="So many of the newest runs make speed and memory.")
    ] = 1,
) -> None:
    """Keep the latest run of a suite as a baseline, with what earlier ones tell of the noise."""
    from bench.gate.files import Wishes, baseline_path, save_baseline, take_baseline
    from bench.store import open_store

    baseline_path(name)
    with open_store(store, create=False) as opened:
        wishes = Wishes(note=note, allow_failed=allow_failed, num_runs=runs)
        taken = take_baseline(opened, suite or name, name, wishes)
    path = save_baseline(taken)
    count = len(taken.records)
    print(f"{path}: {count} records of run {taken.run_id}, {path.stat().st_size / 1024:.0f} KiB")
    if len(taken.past) < _FEW_RUNS:
        few = "1 run tells" if len(taken.past) == 1 else f"{len(taken.past)} runs tell"
        print(
            f"{few} little of how much speed and memory vary here, so only large changes of them "
            f"will be found. Before saving: bench run SUITE --repeat {_FEW_RUNS}"
        )


@app.command(name="list")
def list_saved() -> None:
    """List the baselines, one a line."""
    from bench.gate.files import baseline_names, load_baseline

    for name in baseline_names():
        kept = load_baseline(name)
        print(f"{name}  {kept.suite}  {len(kept.records)} records  {kept.saved_at:%Y-%m-%d}")


@app.command()
def show(name: Annotated[str, typer.Argument(help="Of a baseline.")]) -> None:
    """Print what a baseline holds."""
    from bench.gate.files import baseline_path, load_baseline
    from bench.gate.records import label_records, read_run
    from bench.tables.scale import printable

    kept = load_baseline(name)
    side = read_run(kept.records, label_records(kept.records), title=name)
    size = baseline_path(name).stat().st_size / 1024
    print(f"{name}: suite {kept.suite}, run {kept.run_id}, measured {side.when}, {size:.0f} KiB")
    print(f"saved {kept.saved_at.isoformat()} by bench {kept.bench_version}")
    if kept.note:
        print(printable(f"note: {kept.note}"))
    for cell in side.cells:
        statuses = ", ".join(f"seed {seed.seed} {seed.status.value}" for seed in cell.seeds)
        print(printable(f"  {cell.cell}: {statuses}"))
