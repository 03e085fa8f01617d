"""`genrecal explain`."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from genrecal_mcore.cli.console import table_console


def explain(
    run: Annotated[Path, typer.Argument(help="Run folder, of a run that goes on or has ended.")],
) -> None:
    """Show what each rank was doing last, whom it waited for, how it ended, and which to look at first.

    Example: genrecal explain runs/demo/stage2
    """
    from genrecal_mcore.status import explain_run

    explanation = explain_run(run, now=time.time())
    console = table_console(markup=False)  # errors may hold brackets
    table = Table("rank", "role", "host", "step", "microbatch", "doing", "waiting on", "for s", "end")
    for row in explanation.rows:
        table.add_row(*row)
    console.print(table)
    for sentence in explanation.sentences:
        console.print(sentence, soft_wrap=True)
