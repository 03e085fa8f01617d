"""`genrecal export`."""

from pathlib import Path
from typing import Annotated

import typer

from genrecal_mcore.cli.quiet import quiet_imports


def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    step: Annotated[
        int | None, typer.Option(help="Take the checkpoint after this many steps; the newest if left out.")
    ] = None,
) -> None:
    """Write the student of a run as an ordinary Hugging Face checkpoint, and the Recalibrator beside it.

    Example: genrecal export runs/demo/stage3 --out runs/demo/student
    """
    quiet_imports()
    from genrecal_mcore.training import export_student

    export_student(run, out, step=step)
    typer.echo(f"{run} -> {out}")
