"""`genrecal study`."""

import signal
from pathlib import Path
from typing import Annotated

import typer

from genrecal_mcore.cli.quiet import quiet_imports


def study(
    grid: Annotated[Path, typer.Argument(help="YAML file of the study.")],
    jobs: Annotated[int, typer.Option(min=1, help="Runs at once, one thread each.")] = 1,
    task: Annotated[str, typer.Option(help="I/N: do the I-th of N shares, for an array of jobs.")] = "1/1",
) -> None:
    """Train and evaluate every arm of a grid with every seed, and write one table of means and differences.

    Goes on with what is there. Ends with exit code 1 when something failed; what does not depend on it is
    done all the same.

    Example: genrecal study examples/configs/study_small.yaml --jobs 2
    """
    quiet_imports()
    from genrecal_mcore.observability import set_up_logging
    from genrecal_mcore.study import Share, load_grid, run_study

    loaded, share = load_grid(grid), Share.parse(task)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends what it has started, as Ctrl-C does
    set_up_logging(loaded.out, rank=share.task - 1, role="study", speaks=True)
    failures = run_study(loaded, num_workers=jobs, share=share)
    typer.echo((loaded.out / "summary.md").read_text(encoding="utf-8"))
    typer.echo(f"report: {loaded.out / 'report.html'}")
    if failures:
        raise RuntimeError(f"{len(failures)} jobs failed: {', '.join(failures)}")
