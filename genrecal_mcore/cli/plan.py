"""`genrecal plan`."""

from pathlib import Path
from typing import Annotated

import typer

from genrecal_mcore.cli.quiet import quiet_imports
from genrecal_mcore.config import load_run_config


def plan(
    config: Annotated[Path | None, typer.Argument(help="YAML file of a run to check.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="Keys to change, as a.b=c.")] = None,
    ranks: Annotated[
        int | None, typer.Option(min=1, help="Ranks of the job; as many as the meshes need if left out.")
    ] = None,
    teacher_ranks_per_node: Annotated[
        int | None, typer.Option(min=1, help="Refuses a tensor-parallel group that would lie on two nodes.")
    ] = None,
    gpu_memory_gib: Annotated[
        float | None, typer.Option(help="Memory of a GPU; that of --gpu or of this machine's if left out.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Published model, or a folder. Proposes layouts, with no CONFIG.")
    ] = None,
    student: Annotated[str | None, typer.Option(help="The same.")] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="GPUs to propose layouts for.")] = None,
    gpu: Annotated[str | None, typer.Option(help="Their type, e.g. a100-80g; predicts times.")] = None,
    stage: Annotated[int, typer.Option(min=1, max=3, help="Stage to propose layouts for.")] = 2,
    samples: Annotated[
        float | None, typer.Option(help="Samples of the data set; the run's, or the paper's if left out.")
    ] = None,
    teacher_tokens: Annotated[
        int, typer.Option(min=1, help="Mean tokens of a sample, image tokens included.")
    ] = 2500,
    student_tokens: Annotated[
        int | None, typer.Option(min=1, help="The same for the student; as many if left out.")
    ] = None,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Mean tokens of its answer.")] = 256,
    samples_per_step: Annotated[
        int | None, typer.Option(min=1, help="About as many a step; the paper's if left out.")
    ] = None,
    profile: Annotated[
        Path | None, typer.Option(help="What genrecal profile wrote, instead of assumed efficiencies.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Layouts to show.")] = 5,
) -> None:
    """Check a run without starting it, or propose layouts for two models and a number of GPUs.

    With CONFIG: refuses what train would refuse, shows the memory of each kind of rank and, with --gpu,
    what a step takes. Ends with exit code 2 when a rank does not fit into a GPU.

    Example: genrecal plan examples/configs/demo_stage1.yaml train.micro_batch_size=4 --gpu-memory-gib 80

    Without: genrecal plan --teacher internvl2.5-78b --student internvl2.5-8b --gpus 256 --gpu a100-80g
    """
    if gpu_memory_gib is not None and gpu_memory_gib <= 0:
        raise ValueError(f"--gpu-memory-gib must be above 0, found {gpu_memory_gib:g}")
    keys = list(overrides or [])
    if config is not None and "=" in str(config):  # a key to change, not a file
        keys.insert(0, str(config))
        config = None
    run_config = load_run_config(config, keys) if config is not None else None
    quiet_imports()
    from genrecal_mcore.cli.plan_layouts import LayoutQuestion, propose_layouts
    from genrecal_mcore.cli.plan_run import RunQuestion, check_run
    from genrecal_mcore.cli.plan_tables import TimeQuestion

    time = TimeQuestion(
        gpu=gpu,
        profile=profile,
        samples=None if samples is None else int(samples),
        teacher_tokens=teacher_tokens,
        student_tokens=student_tokens or teacher_tokens,
        answer_tokens=answer_tokens,
    )
    if run_config is None:
        question = LayoutQuestion(
            teacher=teacher,
            student=student,
            gpus=gpus,
            stage=stage,
            samples_per_step=samples_per_step,
            top=top,
        )
        propose_layouts(question, time, keys)
    else:
        if teacher or student or gpus:
            raise ValueError(
                "--teacher, --student and --gpus propose layouts and take no CONFIG; leave it out"
            )
        limits = RunQuestion(
            ranks=ranks, teacher_ranks_per_node=teacher_ranks_per_node, gpu_memory_gib=gpu_memory_gib
        )
        check_run(run_config, limits, time)
