"""Says in which order student and teacher rows enter the Recalibrator and which of its outputs bear labels.

Pure index arithmetic over answer spans: the student path `[z_q1, z_a1, z_q2, z_a2, ...]` of a conversation
takes question rows from the student and answer rows from the teacher; the teacher path takes both from the
teacher.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

from genrecal_mcore.data.types import AnswerSpan

Spans = Sequence[Sequence[AnswerSpan]]
"""Answer spans of each sample of a microbatch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecalibratorLayout:
    """Where each row of a Recalibrator input comes from and what is learnt from its output."""

    source: torch.Tensor
    """`[b, s]`: i for student row i of the packed student rows, num_student_rows + j for teacher row j of the
    packed payload; padding repeats the sample's first row.
    """
    student_sample: torch.Tensor
    """`[n]`: sample of each packed student row."""
    student_position: torch.Tensor
    """`[n]`: position of each packed student row in its sample's student sequence."""
    label_rows: torch.Tensor
    """`[t]`: flat index into the output `[b * s]` of each label-bearing position."""
    labels: torch.Tensor
    """`[t]`: teacher token that each label-bearing position predicts."""
    teacher_rows: torch.Tensor
    """`[t]`: index into the payload of the teacher's own feature at that position, the target of the KL."""
    is_boundary: torch.Tensor
    """`[t]` bool: the last question position of a turn, which predicts the first answer token."""

    def to(self, device: torch.device) -> "RecalibratorLayout":
        """Return the same layout with its tensors on `device`."""
        return RecalibratorLayout(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def payload_starts(spans: Spans, *, with_questions: bool) -> list[list[int]]:
    """Return for each answer the payload row of its boundary position (see `data.payload.payload_rows`).

    Rows of an answer follow each other in the payload: boundary, a_1 .. a_n.
    """
    starts: list[list[int]] = []
    sample_start = 0
    for answers in spans:
        if with_questions:
            starts.append([sample_start + start - 1 for start, _ in answers])
            sample_start += answers[-1][1]
        else:
            of_sample = []
            for start, end in answers:
                of_sample.append(sample_start)
                sample_start += end - start + 1
            starts.append(of_sample)
    return starts


def student_path_layout(
    student_spans: Spans, teacher_spans: Spans, teacher_ids: torch.Tensor, *, with_questions: bool
) -> RecalibratorLayout:
    """Lay out `[z_q, pre(z_a)]` of each conversation (Alg. 1 line 4).

    `teacher_ids` `[b, s_t]` are the teacher's tokens. `with_questions` says which rows the payload holds.
    """
    builder = _LayoutBuilder(teacher_ids)
    starts = payload_starts(teacher_spans, with_questions=with_questions)
    for sample, answers in enumerate(student_spans):
        builder.begin_sample()
        question_start = 0
        for turn, (start, end) in enumerate(answers):
            builder.add_student_rows(sample, range(question_start, start))
            builder.add_answer(sample, teacher_spans[sample][turn], starts[sample][turn])
            question_start = end
    return builder.build()


def teacher_path_layout(teacher_spans: Spans, teacher_ids: torch.Tensor) -> RecalibratorLayout:
    """Lay out `[pre(z_q), pre(z_a)]` of each conversation (Alg. 2), from a payload with questions."""
    builder = _LayoutBuilder(teacher_ids)
    starts = payload_starts(teacher_spans, with_questions=True)
    sample_start = 0
    for sample, answers in enumerate(teacher_spans):
        builder.begin_sample()
        question_start = 0
        for turn, (start, end) in enumerate(answers):
            builder.add_teacher_rows(range(sample_start + question_start, sample_start + start))
            builder.add_answer(sample, (start, end), starts[sample][turn])
            question_start = end
        sample_start += answers[-1][1]
    return builder.build()


class _LayoutBuilder:
    """Collects rows sample by sample; teacher rows are numbered from -1 downwards until all student rows are
    known.
    """

    def __init__(self, teacher_ids: torch.Tensor) -> None:
        self.teacher_ids = teacher_ids.tolist()
        self.sequences: list[list[int]] = []
        self.student: list[tuple[int, int]] = []
        self.labelled: list[tuple[int, int, int, int, bool]] = []

    def begin_sample(self) -> None:
        self.sequences.append([])

    def add_student_rows(self, sample: int, positions: range) -> None:
        first = len(self.student)
        self.student += [(sample, position) for position in positions]
        self.sequences[-1] += range(first, len(self.student))

    def add_teacher_rows(self, rows: range) -> None:
        self.sequences[-1] += [-1 - row for row in rows]

    def add_answer(self, sample: int, span: AnswerSpan, boundary_row: int) -> None:
        start, end = span
        column = len(self.sequences[-1]) - 1
        for j in range(end - start):
            label = self.teacher_ids[sample][start + j]
            self.labelled.append((len(self.sequences) - 1, column + j, label, boundary_row + j, j == 0))
        self.add_teacher_rows(range(boundary_row + 1, boundary_row + 1 + end - start))

    def build(self) -> RecalibratorLayout:
        width = max(len(sequence) for sequence in self.sequences)
        padded = [sequence + [sequence[0]] * (width - len(sequence)) for sequence in self.sequences]
        source = torch.tensor(padded)
        source = torch.where(source < 0, len(self.student) - 1 - source, source)
        sample, position = torch.tensor(self.student, dtype=torch.int64).reshape(-1, 2).unbind(1)
        columns = list(zip(*self.labelled, strict=True))
        return RecalibratorLayout(
            source=source,
            student_sample=sample,
            student_position=position,
            label_rows=torch.tensor(columns[0]) * width + torch.tensor(columns[1]),
            labels=torch.tensor(columns[2]),
            teacher_rows=torch.tensor(columns[3]),
            is_boundary=torch.tensor(columns[4]),
        )
