"""`genrecal plan`."""

from genrecal_mcore.cli import plan_options as options
from genrecal_mcore.cli.quiet import quiet_imports
from genrecal_mcore.config import load_run_config


def plan(
    config: options.Config = None,
    overrides: options.Overrides = None,
    ranks: options.Ranks = None,
    teacher_ranks_per_node: options.TeacherRanksPerNode = None,
    gpu_memory_gib: options.GpuMemoryGib = None,
    teacher: options.Teacher = None,
    student: options.Student = None,
    gpus: options.Gpus = None,
    gpu: options.Gpu = None,
    stage: options.Stage = None,
    samples: options.Samples = None,
    teacher_tokens: options.TeacherTokens = None,
    student_tokens: options.StudentTokens = None,
    answer_tokens: options.AnswerTokens = None,
    samples_per_step: options.SamplesPerStep = None,
    profile: options.ProfileFile = None,
    top: options.Top = None,
) -> None:
    """Check a run without starting it, or propose layouts for two models and a number of GPUs.

    With CONFIG: refuses what train would refuse, shows the memory of each kind of rank and, with --gpu,
    what a step takes. Ends with exit code 2 when a rank does not fit into a GPU.

    Example: genrecal plan examples/configs/demo_stage1.yaml train.micro_batch_size=4 --gpu-memory-gib 80

    Without: genrecal plan --teacher internvl2.5-78b --student internvl2.5-8b --gpus 256 --gpu a100-80g
    """
    given = dict(locals())
    if gpu_memory_gib is not None and gpu_memory_gib <= 0:
        raise ValueError(f"--gpu-memory-gib must be above 0, found {gpu_memory_gib:g}")
    keys = list(overrides or [])
    if config is not None and "=" in str(config):  # a key to change, not a file
        keys.insert(0, str(config))
        config = None
    options.refuse_idle_options(given, has_run=config is not None)
    run_config = load_run_config(config, keys) if config is not None else None
    quiet_imports()
    from genrecal_mcore.cli.plan_layouts import LayoutQuestion, propose_layouts
    from genrecal_mcore.cli.plan_run import RunQuestion, check_run
    from genrecal_mcore.cli.plan_tables import TimeQuestion

    teacher_tokens = teacher_tokens or options.MEAN_TEACHER_TOKENS
    time = TimeQuestion(
        gpu=gpu,
        profile=profile,
        samples=None if samples is None else int(samples),
        teacher_tokens=teacher_tokens,
        student_tokens=student_tokens or teacher_tokens,
        answer_tokens=answer_tokens or options.MEAN_ANSWER_TOKENS,
    )
    if run_config is not None:
        limits = RunQuestion(
            ranks=ranks, teacher_ranks_per_node=teacher_ranks_per_node, gpu_memory_gib=gpu_memory_gib
        )
        check_run(run_config, limits, time)
        return
    question = LayoutQuestion(
        teacher=teacher,
        student=student,
        gpus=gpus,
        stage=stage or options.USUAL_STAGE,
        samples_per_step=samples_per_step,
        top=top or options.NUM_SHOWN,
    )
    propose_layouts(question, time, keys)
