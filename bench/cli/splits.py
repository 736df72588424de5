"""``bench splits``: which examples a suite trains, chooses and tests on, as files of ids."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def splits() -> None:
    """Take the splits of a suite out as files; `splits: FILE` on a dataset fixes them by one."""


@app.command(short_help="Write the ids of train, val and test of every dataset.")
def export(
    suite: Annotated[Path, typer.Argument(help="a suite file, e.g. suites/vision.yaml")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder of the files")] = Path(
        "splits"
    ),
) -> None:
    """Write a JSON file per dataset of a suite, with the splits of every seed and fold."""
    from bench.artifacts import ArtifactCache
    from bench.datasets.export import export_splits, file_names
    from bench.datasets.split_files import write_split_file
    from bench.files import default_cache_dir
    from bench.plan import expand_datasets
    from bench.suite import load_suite

    loaded = load_suite(suite)
    specs = expand_datasets(loaded)
    cache = ArtifactCache(default_cache_dir(), run_scope="splits")
    for spec, name in zip(specs, file_names(specs), strict=True):
        file = export_splits(spec, split_seed=loaded.split_seed, seeds=loaded.seeds, cache=cache)
        write_split_file(output / name, file)
        print(f"{output / name}: {spec.label}, {len(file.draws)} draws")
