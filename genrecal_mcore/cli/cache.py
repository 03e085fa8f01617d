"""`genrecal cache`."""

import json
import logging
from pathlib import Path
from typing import Annotated

import typer

from genrecal_mcore.cli.leaving import leave
from genrecal_mcore.cli.quiet import quiet_imports, quiet_workers
from genrecal_mcore.config import load_run_config

logger = logging.getLogger(__name__)


def cache(
    config: Annotated[Path, typer.Argument(help="YAML file of a run of stage 1 or 2, with teacher ranks.")],
    out: Annotated[Path, typer.Option(help="Folder of the cache; goes on with what is there.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Keys to change, as a.b=c.")] = None,
    stop_file: Annotated[
        Path | None, typer.Option(help="Write what is there and end with exit code 75 once this file exists.")
    ] = None,
) -> None:
    """Write the teacher's features of every sample to files, which teacher.read_cache takes instead of ranks.

    Start it once on every rank, as train; student ranks hold no model. Rows are those that stage 2 needs;
    teacher.cache_rows=all keeps every row, for stage 1.

    Example: torchrun --standalone --nproc-per-node 6 -m genrecal_mcore.cli.main cache
    examples/configs/demo_stage1.yaml --out runs/demo/cache
    """
    folder = json.dumps(str(out))  # a string in YAML too, whatever stands in it
    own = [f"run.dir={folder}", f"teacher.write_cache={folder}", "teacher.read_cache=null"]
    run_config = load_run_config(config, [*(overrides or []), *own])
    quiet_imports()
    quiet_workers()
    from genrecal_mcore.training import EXIT_PREEMPTED, RunPreempted, write_feature_cache

    try:
        write_feature_cache(run_config, stop_file=stop_file)
    except RunPreempted as end:
        logger.warning("%s", end)
        leave(EXIT_PREEMPTED)
