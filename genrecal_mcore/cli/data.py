"""`genrecal data`."""

from pathlib import Path
from typing import Annotated

import typer

from genrecal_mcore.cli.console import table_console
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


@app.command("index")
def index(
    config: Annotated[Path, typer.Argument(help="YAML file of the run.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Keys to change, as a.b=c.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that check samples.")] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Build the index again where there is one.")
    ] = False,
) -> None:
    """Check every sample once, build the index that runs open, and show what each source has.

    It lies where `data.index` says, or in the run folder. One that fits is only shown; a build that was
    interrupted goes on.

    Example: genrecal data index examples/configs/demo_stage1.yaml data.index=runs/demo/index --jobs 2
    """
    run_config = load_run_config(config, overrides or [])
    quiet_imports()
    from rich.markup import escape
    from rich.table import Table

    from genrecal_mcore import data as room
    from genrecal_mcore.observability import CountLine

    def counted(total: int) -> CountLine:
        return CountLine(title="samples checked", total=total)

    folder = room.index_folder(run_config)
    processors = room.load_processors(run_config)
    builders = room.Builders(jobs=jobs, progress=counted)
    make = room.build_index if overwrite else room.prepare_index
    made = make(folder, run_config.data, processors, builders=builders)

    console = table_console()
    table = Table()
    for number, column in enumerate(room.SOURCES_HEADER):
        table.add_column(column, justify="left" if number < 2 else "right")
    for summary in room.describe_sources(run_config, made):
        table.add_row(*map(escape, summary.row()))
    console.print(table)
    console.print(
        f"{folder}: {len(made)} samples, {made.num_skipped} skipped (skipped.jsonl says why), "
        f"digest {made.digest[:12]}",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
