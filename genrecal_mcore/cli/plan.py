"""`genrecal plan`."""

from pathlib import Path
from typing import Annotated

import typer

from genrecal_mcore.cli.console import table_console
from genrecal_mcore.cli.quiet import quiet_imports
from genrecal_mcore.config import RunConfig, load_run_config


def plan(
    config: Annotated[Path, typer.Argument(help="YAML file of the run.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Keys to change, as a.b=c.")] = None,
    ranks: Annotated[
        int | None, typer.Option(min=1, help="Ranks of the job; as many as the meshes need if left out.")
    ] = None,
    teacher_ranks_per_node: Annotated[
        int | None, typer.Option(min=1, help="Refuses a tensor-parallel group that would lie on two nodes.")
    ] = None,
    gpu_memory_gib: Annotated[
        float | None, typer.Option(help="Memory of a GPU; that of this machine's if left out.")
    ] = None,
) -> None:
    """Check a run without starting it and show what memory each kind of rank needs.

    Ends with exit code 2 when a rank does not fit into a GPU.

    Example: genrecal plan examples/configs/demo_stage1.yaml train.micro_batch_size=4 --gpu-memory-gib 80
    """
    if gpu_memory_gib is not None and gpu_memory_gib <= 0:
        raise ValueError(f"--gpu-memory-gib must be above 0, found {gpu_memory_gib:g}")
    run_config = load_run_config(config, overrides or [])
    quiet_imports()
    from rich.table import Table

    from genrecal_mcore import planning

    layout = planning.check_run(run_config, num_ranks=ranks)
    if teacher_ranks_per_node is not None:
        planning.check_nodes(layout, teacher_ranks_per_node=teacher_ranks_per_node)
    models = planning.models_in_folders(run_config)
    planning.check_loss_budget(run_config, models)
    kinds = planning.plan_memory(run_config, layout, planning.count_models(run_config, models))
    about_cache = planning.cache_lines(run_config)

    console = table_console()
    first, *others = planning.memory_header(kinds)
    table = Table(first)
    for column in others:
        table.add_column(column, justify="right")
    *parts, total = planning.memory_rows(kinds)
    for row in parts:
        table.add_row(*row)
    table.add_section()
    table.add_row(*total, style="bold")
    console.print(table)
    for note in [*planning.notes(kinds), *about_cache]:
        console.print(note, soft_wrap=True)

    available_bytes = available_memory(run_config, gpu_memory_gib)
    if available_bytes is not None:
        planning.check_fits(kinds, run_config, available_bytes=available_bytes)
    console.print(planning.fit_text(kinds, available_bytes=available_bytes), soft_wrap=True)


def available_memory(config: RunConfig, gpu_memory_gib: float | None) -> int | None:
    """Return the bytes of a GPU: as asked for, or of this machine's first; None where there is none."""
    import torch

    if gpu_memory_gib is not None:
        return int(gpu_memory_gib * 2**30)
    if config.device == "cpu" or not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(0).total_memory
