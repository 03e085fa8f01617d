"""`genrecal explain`."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

FILE_WIDTH = 200
"""Columns of a table that goes to a file or a pipe."""


def explain(
    run: Annotated[Path, typer.Argument(help="Run folder, of a run that goes on or has ended.")],
) -> None:
    """Show what each rank was doing last, whom it waited for, how it ended, and which to look at first.

    Example: genrecal explain runs/demo/stage2
    """
    from genrecal_mcore.status import explain_run

    explanation = explain_run(run, now=time.time())
    console = Console()
    if not console.is_terminal:
        console = Console(width=FILE_WIDTH)
    table = Table("rank", "role", "host", "step", "microbatch", "doing", "waiting on", "for s", "end")
    for row in explanation.rows:
        table.add_row(*row)
    console.print(table)
    for sentence in explanation.sentences:
        console.print(sentence, soft_wrap=True)
