"""A console that writes into a text of so many columns; knows no table."""

import io

from rich.console import Console


def text_console(width: int, *, colour: bool) -> tuple[Console, io.StringIO]:
    """Return a console, and the text that it writes to.

    Args:
        width: Columns.
        colour: Whether escape sequences are written.
    """
    file = io.StringIO()
    console = Console(
        file=file,
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
        highlight=False,
        legacy_windows=False,
    )
    return console, file
