"""`genrecal plan --teacher --student --gpus`: proposes layouts and compares them."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from genrecal_mcore import planning
from genrecal_mcore.cli.console import table_console
from genrecal_mcore.cli.plan_tables import (
    TimeQuestion,
    print_lines,
    print_memory,
    print_table,
    print_time,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutQuestion:
    """What layouts are asked for."""

    teacher: str | None
    student: str | None
    gpus: int | None
    stage: int
    samples_per_step: int | None
    top: int


def propose_layouts(question: LayoutQuestion, time: TimeQuestion, overrides: Sequence[str]) -> None:
    """Print the fastest layouts that fit; raises `ValueError` when none does."""
    search = search_of(question, time, overrides)
    proposals = planning.propose(search, top=question.top)
    console, samples = table_console(), search.workload.samples
    refusals = planning.refusal_lines(proposals)
    rows = [planning.proposal_row(proposal, samples=samples) for proposal in proposals.best]
    print_table(console, planning.PROPOSALS_HEADER, rows, total=False)
    print_lines(console, refusals)
    print_best(console, search, proposals.best[0])


def print_best(console: Console, search: planning.Search, best: planning.Proposal) -> None:
    """Print the fastest layout whole, ZeRO-3 beside it, and what both rest on."""
    console.rule("the first of them", align="left")
    print_memory(console, best.kinds)
    print_time(console, best.timed, best.prediction, search.workload)
    zero3 = planning.zero3(search)
    if zero3 is not None:
        samples = search.workload.samples
        print_lines(console, planning.zero3_lines(zero3, num_gpus=search.num_gpus, samples=samples))
    print_lines(console, planning.assumption_lines(search.hardware, best.timed.rates))
    print_lines(
        console, ["To train so, behind `genrecal train CONFIG`:", " ".join(planning.overrides(best.config))]
    )


def search_of(question: LayoutQuestion, time: TimeQuestion, overrides: Sequence[str]) -> planning.Search:
    """Return the search; raises `ValueError` for an option that is missing or names nothing known."""
    if question.student is None or question.gpus is None:
        missing = "--student" if question.student is None else "--gpus"
        raise ValueError(f"{missing} is missing; name a CONFIG, or both models, --gpus and --gpu")
    if question.teacher is None and question.stage < 3 and "method=sft" not in overrides:
        raise ValueError(f"--teacher is missing; stage {question.stage} needs one, unless you add method=sft")
    hardware = time.hardware()
    longest = planning.longest_drawn(max(time.teacher_tokens, time.student_tokens))
    config = planning.planned_run(
        stage=question.stage,
        teacher=question.teacher,
        student=question.student,
        max_tokens=longest,
        overrides=overrides,
    )
    dtype = config.train.dtype
    teacher = planning.named_teacher(question.teacher, dtype=dtype) if question.teacher else None
    student = planning.named_model(question.student, dtype=dtype)
    named = planning.PlannedModels(student=student, teacher=teacher)
    planning.check_loss_budget(config, named)
    models = planning.count_models(config, named)
    workload = time.workload(models, samples=planning.SAMPLES[question.stage])
    workload.check_lengths(config.data.max_tokens)
    return planning.Search(
        config=config,
        models=models,
        hardware=hardware,
        num_gpus=question.gpus,
        workload=workload,
        samples_per_step=question.samples_per_step or planning.SAMPLES_PER_STEP[question.stage],
        rates_of=time.rates_of(config),
    )
