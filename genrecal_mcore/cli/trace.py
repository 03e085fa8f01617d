"""`genrecal trace`."""

from pathlib import Path
from typing import Annotated

import typer


def trace(
    run: Annotated[
        Path, typer.Argument(help="Run folder, of a run that had trace.first_step and num_steps.")
    ],
    out: Annotated[Path | None, typer.Option(help="File to write; RUN/trace.json otherwise.")] = None,
) -> None:
    """Put the spans that all ranks recorded into one file for ui.perfetto.dev, both meshes on one clock.

    Example: genrecal trace runs/mine --out work/trace.json
    """
    from genrecal_mcore.observability import write_trace

    path = out or run / "trace.json"
    off_us = write_trace(run, path) / 1000
    typer.echo(f"{path}: open it in ui.perfetto.dev; ranks are at most {off_us:.0f} us off rank 0's clock")
