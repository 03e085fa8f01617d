"""The console that tables go to."""

from typing import Any

from rich.console import Console

FILE_WIDTH = 200
"""Columns of a table that goes to a file or a pipe, where rich would fold it to 80."""


def table_console(**options: Any) -> Console:
    """Return a rich console, as wide as the terminal or, without one, as `FILE_WIDTH`."""
    console = Console(**options)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    return console
