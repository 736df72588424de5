"""`bench list`: what can go in a suite, one name a line."""

import sys
from enum import StrEnum
from typing import Annotated

import typer


class Kind(StrEnum):
    """What is listed."""

    BACKBONES = "backbones"
    DATASETS = "datasets"
    STRATEGIES = "strategies"


def list_names(
    kind: Annotated[Kind, typer.Argument(help="backbones, datasets or strategies")],
    pattern: Annotated[
        str | None, typer.Argument(metavar="[GLOB]", help="'timm/*vit*', or a piece of a name")
    ] = None,
) -> None:
    """List what can go in a suite: names, sorted, one a line."""
    from bench.suite.listing import list_known

    known = list_known(kind.value, pattern)
    width = max(len(name) for name in known.names)
    for name, summary in known.names.items():
        print(f"{name:<{width}}  {summary}" if summary else name)
    for note in known.notes:
        print(note, file=sys.stderr)
