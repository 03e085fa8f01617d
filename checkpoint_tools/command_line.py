"""How the scripts of this folder report errors: one message, exit code 2 for bad input."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn


def run_command(main: Callable[..., None]) -> None:
    """Run a script's `main` by typer; bad input ends with its message on stderr and exit code 2."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    try:
        app()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


@contextmanager
def progress_bar() -> Iterator[Callable[[int], Callable[[int], None]]]:
    """Give a function of the bytes to write, which returns one of the bytes just written.

    Only a terminal shows them.
    """
    console = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def begin(total_bytes: int) -> Callable[[int], None]:
            task = progress.add_task("", total=total_bytes)
            return lambda num_bytes: progress.advance(task, num_bytes)

        yield begin
