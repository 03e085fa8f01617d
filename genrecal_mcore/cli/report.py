"""`genrecal report`."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders in the order in which to show them, or a study's.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder to write; the first run's otherwise.")] = None,
) -> None:
    """Write a self-contained page with loss curves, waits, throughput and configuration of runs, or with the
    tables and figures of a study.

    Example: genrecal report runs/demo/stage1 runs/demo/stage2 --out runs/demo
    """
    from genrecal_mcore.observability import write_report

    if len(runs) == 1 and (runs[0] / "study.json").is_file():
        if out is not None:
            raise ValueError("a study's report lies in its folder; leave --out away")
        from genrecal_mcore.study.report import study_report

        typer.echo(study_report(runs[0]))
        return
    names = [run.name for run in runs]
    named = {run.name if names.count(run.name) == 1 else str(run): run for run in runs}
    typer.echo(write_report(out or runs[0], runs=named, table=None, title=", ".join(named)))
