"""`genrecal plan CONFIG`: checks one run, counts its memory and, asked for, its time."""

from dataclasses import dataclass

import torch

from genrecal_mcore import planning
from genrecal_mcore.cli.console import table_console
from genrecal_mcore.cli.plan_tables import TimeQuestion, print_lines, print_memory, print_time
from genrecal_mcore.config import RunConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class RunQuestion:
    """What a run must fit into."""

    ranks: int | None
    teacher_ranks_per_node: int | None
    gpu_memory_gib: float | None


def check_run(config: RunConfig, question: RunQuestion, time: TimeQuestion) -> None:
    """Print the plan of a run; raises `ValueError` where `train` would, and for a rank that does not fit."""
    layout = planning.check_run(config, num_ranks=question.ranks)
    if question.teacher_ranks_per_node is not None:
        planning.check_nodes(layout, teacher_ranks_per_node=question.teacher_ranks_per_node)
    named = planning.models_in_folders(config)
    planning.check_loss_budget(config, named)
    models = planning.count_models(config, named)
    kinds = planning.plan_memory(config, layout, models)
    about_cache = planning.cache_lines(config)
    console = table_console()
    print_memory(console, kinds)
    print_lines(console, about_cache)
    available_bytes = available_memory(config, question, time)
    if available_bytes is not None:
        planning.check_fits(kinds, config, available_bytes=available_bytes)
    print_lines(console, [planning.fit_text(kinds, available_bytes=available_bytes)])
    if time.gpu is None:
        return
    rates = time.rates_of(config)(layout)
    timed = planning.timed_layout(config, layout, models, rates)
    workload = time.workload(models, samples=planning.samples_of_run(config))
    workload.check_lengths(config.data.max_tokens)
    print_time(console, timed, planning.predict_workload(timed, workload), workload)
    print_lines(console, planning.assumption_lines(time.hardware(), rates))


def available_memory(config: RunConfig, question: RunQuestion, time: TimeQuestion) -> int | None:
    """Return the bytes of a GPU: as asked for, of a named type, of this machine's; None without one."""
    if question.gpu_memory_gib is not None:
        return int(question.gpu_memory_gib * 2**30)
    if time.gpu is not None:
        return time.hardware().memory_bytes
    if config.device == "cpu" or not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(0).total_memory
