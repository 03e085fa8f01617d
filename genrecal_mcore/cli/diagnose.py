"""`genrecal diagnose`."""

from pathlib import Path
from typing import Annotated

import typer

from genrecal_mcore.cli.quiet import quiet_imports


def diagnose(
    run: Annotated[Path, typer.Argument(help="Run folder, of stage 1 or 2.")],
    data: Annotated[
        Path | None, typer.Option(help="Samples in the LLaVA format; the run's if left out.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of their images.")] = None,
    num_samples: Annotated[int, typer.Option(help="Samples to look at.")] = 64,
    step: Annotated[
        int | None,
        typer.Option(
            help="The checkpoint after this many steps; 0: how the run began; the newest if left out."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier diagnosis.")] = False,
) -> None:
    """Show whether the Recalibrator uses the student's features, and how near both models' features come.

    Holds teacher and student in this process. Writes diagnostics.json and features.safetensors into the run
    folder, or for a --step into diagnostics/ in it; `genrecal report` shows both.

    Example: genrecal diagnose runs/demo/stage2 --data runs/demo/data/heldout.jsonl
    --images runs/demo/data/images
    """
    quiet_imports()
    from genrecal_mcore.cli.console import table_console
    from genrecal_mcore.cli.tables import rich_table
    from genrecal_mcore.config import DataSource
    from genrecal_mcore.diagnostics import DiagnosisSettings, diagnose_run
    from genrecal_mcore.observability import diagnostics_tables

    if (data is None) != (images is None):
        raise ValueError("--data and --images belong together; give both or neither")
    source = DataSource(path=data, images=images) if data is not None and images is not None else None
    settings = DiagnosisSettings(num_samples=num_samples, source=source, step=step, overwrite=overwrite)
    diagnosis = diagnose_run(run, settings)
    for table in diagnostics_tables(diagnosis.facts):
        table_console().print(rich_table(table))
