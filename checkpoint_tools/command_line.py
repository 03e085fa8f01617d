"""How the scripts of this folder report errors: one message, exit code 2 for bad input."""

import sys
from collections.abc import Callable

import typer


def run_command(main: Callable[..., None]) -> None:
    """Run a script's `main` by typer; bad input ends with its message on stderr and exit code 2."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    try:
        app()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
