"""`genrecal train`."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from genrecal_mcore.cli.leaving import leave
from genrecal_mcore.cli.quiet import quiet_imports, quiet_workers
from genrecal_mcore.config import load_run_config

logger = logging.getLogger(__name__)


def train(
    config: Annotated[Path, typer.Argument(help="YAML file of the run.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Keys to change, as a.b=c.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
    resume_or_begin: Annotated[
        bool,
        typer.Option("--resume-or-begin", help="Resume if run.dir holds a run, for jobs that are requeued."),
    ] = False,
    stop_file: Annotated[
        Path | None,
        typer.Option(help="End with a checkpoint and exit code 75 as soon as this file exists."),
    ] = None,
) -> None:
    """Train one stage; start it once on every rank, with torchrun or srun.

    Example: torchrun --standalone --nproc-per-node 6 -m genrecal_mcore.cli.main train
    examples/configs/demo_stage1.yaml train.steps=20
    """
    run_config = load_run_config(config, overrides or [])
    # Only a configuration that is right pays for the import of torch and megatron-core.
    quiet_imports()
    quiet_workers()
    from genrecal_mcore.training import EXIT_PREEMPTED, RunPreempted
    from genrecal_mcore.training import train as train_stage

    holds_run = (run_config.run.dir / "config.yaml").exists()
    try:
        train_stage(run_config, resume=resume or resume_or_begin and holds_run, stop_file=stop_file)
    except RunPreempted as end:
        logger.warning("%s", end)
        leave(EXIT_PREEMPTED)
