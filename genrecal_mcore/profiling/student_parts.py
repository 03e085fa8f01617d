"""Times the student side part by part: body, images, Recalibrator, both losses, forward and backward."""

from collections.abc import Callable
from functools import partial

import torch

from genrecal_mcore.data import Microbatch
from genrecal_mcore.losses import frozen_head_loss, student_head_loss
from genrecal_mcore.models import Packing, student_body, student_embeddings
from genrecal_mcore.planning.costs import Op, flops_of
from genrecal_mcore.planning.student_costs import (
    StudentSide,
    body_cost,
    recalibrator_cost,
    student_head_cost,
    student_path,
    teacher_head_cost,
    two_heads_cost,
)
from genrecal_mcore.planning.teacher_costs import payload_rows_of
from genrecal_mcore.profiling.fit import seconds_of_each
from genrecal_mcore.profiling.stopwatch import Stopwatch
from genrecal_mcore.profiling.units import ProfiledUnit, text_size, text_unit, variations
from genrecal_mcore.training.student_module import StudentModule
from genrecal_mcore.training.student_unit import StudentUnit, student_layout


def part_seconds(
    module: StudentModule, side: StudentSide, unit: ProfiledUnit, watch: Stopwatch
) -> dict[Op, float]:
    """Return the seconds of a flop of each part of the student side, forward and backward.

    Every parameter is brought to the run's dtype, in which FSDP hands it to the layers.
    """
    dtype = module.student.dtype
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)
    found = body_seconds(module, side, unit, watch)
    size = text_size(unit.lengths, answer_tokens=unit.answer_tokens)
    example = text_unit(module, unit.lengths, answer_tokens=unit.answer_tokens, own_answers=side.own_answers)
    if side.stage.student_path:
        path = student_path(side, size)
        payload = payload_rows_of(size.teacher, with_questions=side.stage.with_questions)
        cost = recalibrator_cost(side, path, payload_rows=payload)
        seconds = watch.seconds(lambda: run_recalibrator(module, example))
        found[Op.RECALIBRATOR] = seconds / cost[Op.RECALIBRATOR]
        seconds = watch.seconds(teacher_head_run(module, example))
        found[Op.TEACHER_HEAD] = seconds / teacher_head_cost(side, path)[Op.TEACHER_HEAD]
    if side.stage.comparison is not None:
        seconds = watch.seconds(two_heads_run(module, example))
        flops = flops_of(two_heads_cost(side, size.student))
        found |= dict.fromkeys((Op.STUDENT_HEAD, Op.TEACHER_HEAD), seconds / flops)
    elif side.stage.student_ce:
        seconds = watch.seconds(student_head_run(module, example))
        found[Op.STUDENT_HEAD] = seconds / student_head_cost(side, size.student)[Op.STUDENT_HEAD]
    return found


def body_seconds(
    module: StudentModule, side: StudentSide, unit: ProfiledUnit, watch: Stopwatch
) -> dict[Op, float]:
    """Return the seconds of a flop of the body's linears and of its attention."""
    ops = (Op.STUDENT_LINEARS, Op.STUDENT_ATTENTION)
    amounts, seconds = [], []
    for lengths in variations(unit.lengths):
        batch = text_unit(module, lengths, answer_tokens=1).student
        cost = body_cost(side, text_size(lengths, answer_tokens=1).student)
        amounts.append([1.0, *(cost[op] for op in ops)])
        seconds.append(watch.seconds(partial(run_body, module, batch)))
    _, *found = seconds_of_each(amounts, seconds)
    return dict(zip(ops, found, strict=True))


def run_body(module: StudentModule, batch: Microbatch) -> None:
    """Run the language body as the stage does: forward, and backward where it learns."""
    learns = module.stage.student_learns != "nothing"
    with torch.set_grad_enabled(learns):
        embeddings = student_embeddings(module.student, batch.input_ids, None, None)
        packing = Packing.of(batch.bounds, embeddings.device)
        hidden_states = student_body(module.student, embeddings, batch.position_ids, packing)
    if learns:
        hidden_states.sum().backward()
        module.zero_grad(set_to_none=True)


def run_recalibrator(module: StudentModule, unit: StudentUnit) -> None:
    """Run the student path through the Recalibrator, forward and backward."""
    assert module.recalibrator is not None and unit.payload is not None
    layout = student_layout(unit, with_questions=module.stage.with_questions)
    hidden_size = module.student.config.get_text_config().hidden_size
    rows = torch.randn(
        len(layout.student_rows), hidden_size, dtype=module.student.dtype, device=unit.payload.device
    )
    rows.requires_grad_(module.stage.student_learns != "nothing")
    packing = Packing.of(layout.bounds, layout.source.device)
    module.recalibrator(rows, unit.payload, layout.source, packing).sum().backward()
    module.zero_grad(set_to_none=True)


def teacher_head_run(module: StudentModule, unit: StudentUnit) -> Callable[[], None]:
    """Return what runs the loss through the teacher's head, forward and backward."""
    layout = student_layout(unit, with_questions=module.stage.with_questions)
    assert unit.payload is not None
    teacher_rows = unit.payload[layout.teacher_rows]
    rows = torch.randn_like(teacher_rows).requires_grad_()

    def run() -> None:
        loss = frozen_head_loss(
            rows,
            teacher_rows,
            layout.labels,
            module.teacher_head,
            memory_budget_bytes=module.loss_memory_bytes,
        )
        loss.total.backward()

    return run


def two_heads_run(module: StudentModule, unit: StudentUnit) -> Callable[[], None]:
    """Return what runs the comparison of both models' own heads, forward and backward."""
    hidden_size = module.student.config.get_text_config().hidden_size
    rows = torch.randn(
        sum(unit.student.lengths), hidden_size, dtype=module.student.dtype, device=module.teacher_head.device
    )
    rows.requires_grad_()

    def run() -> None:
        module.both_heads_loss(unit, rows).total.backward()

    return run


def student_head_run(module: StudentModule, unit: StudentUnit) -> Callable[[], None]:
    """Return what runs the loss through the student's own head, forward and backward."""
    weight = module.student.get_output_embeddings().weight
    labels = unit.student.input_ids[0, : unit.counts.student_answer_tokens]
    rows = torch.randn(len(labels), weight.shape[1], dtype=weight.dtype, device=weight.device)
    rows.requires_grad_()

    def run() -> None:
        student_head_loss(rows, labels, weight, memory_budget_bytes=module.loss_memory_bytes).backward()
        module.zero_grad(set_to_none=True)

    return run
