"""`genrecal data`."""

from pathlib import Path
from typing import Annotated

import typer

from genrecal_mcore.cli.quiet import quiet_imports
from genrecal_mcore.config import load_run_config

app = typer.Typer(help="Look at what a run learns from.", no_args_is_help=True)


@app.callback()
def data() -> None:
    """Look at what a run learns from."""


@app.command("show")
def show(
    config: Annotated[Path, typer.Argument(help="YAML file of the run.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Keys to change, as a.b=c.")] = None,
    step: Annotated[int, typer.Option(help="Step to show.")] = 0,
) -> None:
    """Print each student rank's samples of a step, in both models' tokens, answers marked.

    Example: genrecal data show examples/configs/demo_stage1.yaml --step 3
    """
    run_config = load_run_config(config, overrides or [])
    quiet_imports()
    from genrecal_mcore.data import show_step

    typer.echo(show_step(run_config, step))
