"""Units of text for both models, made up: as long as asked for, with no images."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from genrecal_mcore.data import Microbatch, payload_rows
from genrecal_mcore.planning.workload import PairedSize, SampleSize, UnitSize
from genrecal_mcore.training.student_module import StudentModule
from genrecal_mcore.training.student_unit import StepCounts, StudentUnit

FIRST_ID, LAST_ID = 3, 200
"""Of the tokens that are drawn: the smallest vocabularies of tests have as many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfiledUnit:
    """What units are timed."""

    lengths: Sequence[int]
    answer_tokens: int
    """Of each sample."""


def text_batch(
    lengths: Sequence[int], *, answer_tokens: int, has_mrope: bool, knows_text: bool
) -> Microbatch:
    """Return samples of these lengths packed; each ends with an answer of `answer_tokens`, a byte a token."""
    ends = tuple(range(1, answer_tokens + 1))
    generator = torch.Generator().manual_seed(0)
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    return Microbatch(
        sample_ids=tuple(map(str, range(len(lengths)))),
        input_ids=torch.randint(FIRST_ID, LAST_ID, (1, sum(lengths)), generator=generator),
        position_ids=positions.expand(3, -1, -1) if has_mrope else positions,
        lengths=tuple(lengths),
        answer_spans=tuple(((length - answer_tokens, length),) for length in lengths),
        vision=None,
        text_ends=((ends,),) * len(lengths) if knows_text else None,
    )


def text_unit(
    module: StudentModule, lengths: Sequence[int], *, answer_tokens: int, own_answers: bool = False
) -> StudentUnit:
    """Return a unit of the same samples for both models, with random features, on the module's device.

    With `own_answers` the student's rows of them enter the Recalibrator too.
    """
    text = module.student.config.get_text_config()
    device = next(module.parameters()).device
    has_mrope = "mrope_section" in text.rope_parameters
    student, teacher_batch = (
        text_batch(lengths, answer_tokens=answer_tokens, has_mrope=of_model, knows_text=own_answers)
        for of_model in (has_mrope, False)
    )
    teacher = payload = None
    if module.stage.has_teacher:
        teacher = teacher_batch
        rows = payload_rows(teacher.answer_spans, teacher.lengths, with_questions=module.stage.with_questions)
        head = module.teacher_head
        payload = torch.randn(len(rows), head.shape[1], dtype=head.dtype, device=device)
    return StudentUnit(
        student=student.to(device),
        teacher=teacher,
        payload=payload,
        counts=StepCounts(
            teacher_answer_tokens=len(lengths) * answer_tokens,
            student_answer_tokens=len(lengths) * answer_tokens,
            teacher_tokens=sum(lengths),
            num_answers=len(lengths),
        ),
    )


def text_size(lengths: Sequence[int], *, answer_tokens: int) -> UnitSize:
    """Return the size of such a unit, as costs are counted from it."""
    sizes = [SampleSize(tokens=length, answer_tokens=answer_tokens) for length in lengths]
    return UnitSize(samples=tuple(PairedSize(teacher=size, student=size) for size in sizes))


def bounds_of(lengths: Sequence[int]) -> tuple[int, ...]:
    """Return where each of these samples begins in a packed sequence, and its length."""
    return (0, *accumulate(lengths))


def variations(lengths: Sequence[int]) -> list[list[int]]:
    """Return a unit's lengths, as many tokens in four sequences and in one, and an eighth of them.

    They tell apart what grows with tokens, with pairs of them, and with neither.
    """
    whole = sum(lengths)
    return [list(lengths), [max(1, whole // 4)] * 4, [whole], [max(1, whole // 8)]]
