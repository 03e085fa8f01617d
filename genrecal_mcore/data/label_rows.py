"""Says which rows of a model bear labels, and at which rows two models' distributions are compared.

Pure index arithmetic over answer spans.
"""

from dataclasses import dataclass

import torch

from genrecal_mcore.config import Positions
from genrecal_mcore.data.recalibrator_layout import payload_starts
from genrecal_mcore.data.types import Microbatch


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedRows:
    """The t positions at which both models' own distributions are compared."""

    student_rows: torch.Tensor
    """`[t]`: position in the packed student microbatch."""
    teacher_rows: torch.Tensor
    """`[t]`: row of the payload."""
    labels: torch.Tensor
    """`[t]`: the next token where it is one of an answer, `no_label` elsewhere."""


def label_positions(batch: Microbatch) -> torch.Tensor:
    """Return the positions `[n]` in the packed sequence of every row that predicts an answer token, on its
    device.
    """
    positions = [
        first + position
        for first, spans in zip(batch.bounds, batch.answer_spans, strict=False)
        for start, end in spans
        for position in range(start - 1, end - 1)
    ]
    return torch.tensor(positions, device=batch.input_ids.device)


def compared_rows(
    student: Microbatch, teacher: Microbatch, positions: Positions, *, no_label: int
) -> ComparedRows:
    """Return every position of every sample, or those that predict an answer token (appendix G), on the
    student's device.

    Both microbatches hold the same tokens there; the payload holds questions in the first case only.
    """
    ids, labelled = student.input_ids[0], label_positions(student)
    if positions == "all":
        every = torch.arange(sum(student.lengths), device=ids.device)
        labels = torch.full_like(every, no_label)
        labels[labelled] = ids[labelled + 1]
        return ComparedRows(student_rows=every, teacher_rows=every, labels=labels)
    starts = payload_starts(teacher.answer_spans, with_questions=False)
    rows = [
        row
        for spans, of_sample in zip(teacher.answer_spans, starts, strict=True)
        for (first, end), start in zip(spans, of_sample, strict=True)
        for row in range(start, start + end - first)
    ]
    teacher_rows = torch.tensor(rows, device=ids.device)
    return ComparedRows(student_rows=labelled, teacher_rows=teacher_rows, labels=ids[labelled + 1])
