"""A student rank's unit of work: what it is given, and the counts that its losses are divided by."""

from dataclasses import dataclass

import torch

from genrecal_mcore.config import Positions, PositionWeighting
from genrecal_mcore.data import (
    Ends,
    Microbatch,
    RecalibratorLayout,
    student_path_layout,
    teacher_path_layout,
)
from genrecal_mcore.training.answer_inputs import AnswerEmbeddings


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCounts:
    """Tokens of a whole step, over all ranks and microbatches: what sums are divided by, once."""

    teacher_answer_tokens: int
    """Label-bearing tokens in the teacher's tokenizer."""
    student_answer_tokens: int
    """The same in the student's tokenizer."""
    teacher_tokens: int
    """All tokens in the teacher's tokenizer."""
    num_answers: int
    """Each has one boundary position."""

    def compared(self, positions: Positions) -> int:
        """Return the positions at which both models' own distributions are compared."""
        return self.teacher_tokens if positions == "all" else self.teacher_answer_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentUnit:
    """What a student rank needs for one microbatch, on its device."""

    student: Microbatch
    teacher: Microbatch | None
    """The same samples in the teacher's tokens, without pixels; None where no teacher takes part."""
    payload: torch.Tensor | None
    """`[rows, h_t]` teacher features in the order of `data.payload_rows`."""
    counts: StepCounts
    answers: AnswerEmbeddings | None = None
    """What stands for the answers' features in the Recalibrator's input, if anything does."""


def weighted_groups(
    layout: RecalibratorLayout, counts: StepCounts, weighting: PositionWeighting
) -> list[tuple[slice | torch.Tensor, int]]:
    """Return groups of the layout's label-bearing positions, each with what its sum is divided by."""
    if weighting == "tokens":
        return [(slice(None), counts.teacher_answer_tokens)]
    # An answer has at least two tokens, its text and its end, so that there are other positions.
    rest = counts.teacher_answer_tokens - counts.num_answers
    return [(layout.boundary, 2 * counts.num_answers), (layout.rest, 2 * rest)]


def student_layout(unit: StudentUnit, *, with_questions: bool) -> RecalibratorLayout:
    """Return the student path's layout on the unit's device."""
    assert unit.teacher is not None
    layout = student_path_layout(
        unit.student.answer_spans,
        unit.teacher.answer_spans,
        unit.teacher.input_ids,
        with_questions=with_questions,
        text_ends=text_ends_of(unit.student, unit.teacher),
    )
    return layout.to(unit.student.input_ids.device)


def text_ends_of(student: Microbatch, teacher: Microbatch) -> tuple[Ends, Ends] | None:
    """Return how much text is known at both models' answer tokens; None where nobody asked for it."""
    if student.text_ends is None or teacher.text_ends is None:
        return None
    return student.text_ends, teacher.text_ends


def regularizer_layout(unit: StudentUnit) -> RecalibratorLayout:
    """Return the teacher path's layout on the unit's device."""
    assert unit.teacher is not None
    layout = teacher_path_layout(unit.teacher.answer_spans, unit.teacher.input_ids)
    return layout.to(unit.student.input_ids.device)
