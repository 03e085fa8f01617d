"""Says in which order student and teacher rows enter the Recalibrator and which of its outputs bear labels.

Pure index arithmetic over answer spans: the student path `[z_q1, z_a1, z_q2, z_a2, ...]` of a conversation
takes question rows from the student and answer rows from the teacher; the teacher path takes both from the
teacher.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from genrecal_mcore.data.types import AnswerSpan, TextEnds

Spans = Sequence[Sequence[AnswerSpan]]
"""Answer spans of each sample of a microbatch."""
Ends = Sequence[Sequence[TextEnds]]
"""Text ends of each answer of each sample."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecalibratorLayout:
    """Where each row of a Recalibrator input comes from and what is learnt from its output."""

    source: torch.Tensor
    """`[s]`: i for student row i, num_student_rows + j for teacher row j of the payload."""
    bounds: tuple[int, ...]
    """Where each sample's sequence begins, and s."""
    student_rows: torch.Tensor
    """`[n]`: position of each student row in the packed student microbatch."""
    question_rows: torch.Tensor
    """`[q]`: index into the output `[s]` of each question position."""
    label_rows: torch.Tensor
    """`[t]`: index into the output `[s]` of each label-bearing position."""
    labels: torch.Tensor
    """`[t]`: teacher token that each label-bearing position predicts."""
    teacher_rows: torch.Tensor
    """`[t]`: index into the payload of the teacher's own feature at that position, the target of the KL."""
    boundary: torch.Tensor
    """`[num_answers]`: which of the t are last question positions, which predict first answer tokens."""
    rest: torch.Tensor
    """`[t - num_answers]`: the others of the t."""

    def to(self, device: torch.device) -> "RecalibratorLayout":
        """Return the same layout with its tensors on `device`."""
        return replace(
            self,
            source=self.source.to(device),
            student_rows=self.student_rows.to(device),
            question_rows=self.question_rows.to(device),
            label_rows=self.label_rows.to(device),
            labels=self.labels.to(device),
            teacher_rows=self.teacher_rows.to(device),
            boundary=self.boundary.to(device),
            rest=self.rest.to(device),
        )


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
    student_spans: Spans,
    teacher_spans: Spans,
    teacher_ids: torch.Tensor,
    *,
    with_questions: bool,
    text_ends: tuple[Ends, Ends] | None = None,
) -> RecalibratorLayout:
    """Lay out `[z_q, pre(z_a)]` of each conversation (Alg. 1 line 4).

    `teacher_ids` `[1, s_t]` are the teacher's packed tokens. `with_questions` says which rows the payload
    holds. With `text_ends`, the student's and the teacher's, the student's own answer rows stand among the
    teacher's, each before the first one that knows as much of the text: no teacher row sees later text.
    """
    builder = _LayoutBuilder(teacher_ids)
    starts = payload_starts(teacher_spans, with_questions=with_questions)
    student_start = teacher_start = 0
    for sample, answers in enumerate(student_spans):
        question_start = 0
        for turn, (start, end) in enumerate(answers):
            builder.add_student_question(range(student_start + question_start, student_start + start))
            own = None
            if text_ends is not None:
                of_student, of_teacher = (ends[sample][turn] for ends in text_ends)
                own = OwnAnswer(
                    positions=range(student_start + start, student_start + end),
                    rows_before=student_rows_before(of_student, of_teacher),
                )
            builder.add_answer(teacher_start, teacher_spans[sample][turn], starts[sample][turn], own)
            question_start = end
        builder.end_sample()
        student_start += answers[-1][1]
        teacher_start += teacher_spans[sample][-1][1]
    return builder.build()


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnAnswer:
    """The student's own rows of an answer, and their places among the teacher's."""

    positions: range
    """In the packed student microbatch."""
    rows_before: Sequence[int] | None
    """For each of the teacher's rows, how many of them stand before it; None where all stand behind."""


def student_rows_before(student: TextEnds, teacher: TextEnds) -> list[int] | None:
    """Return for each teacher row of an answer how many student rows know no more of its text than it does.

    None where one of the two ends is not known: then nothing of the student is known to be safe.
    """
    if student is None or teacher is None:
        return None
    return [bisect_right(student, end) for end in teacher]


def teacher_path_layout(teacher_spans: Spans, teacher_ids: torch.Tensor) -> RecalibratorLayout:
    """Lay out `[pre(z_q), pre(z_a)]` of each conversation (Alg. 2), from a payload with questions."""
    builder = _LayoutBuilder(teacher_ids)
    starts = payload_starts(teacher_spans, with_questions=True)
    sample_start = 0
    for sample, answers in enumerate(teacher_spans):
        question_start = 0
        for turn, (start, end) in enumerate(answers):
            builder.add_teacher_question(range(sample_start + question_start, sample_start + start))
            builder.add_answer(sample_start, (start, end), starts[sample][turn])
            question_start = end
        builder.end_sample()
        sample_start += answers[-1][1]
    return builder.build()


def with_shares_apart(layout: RecalibratorLayout) -> RecalibratorLayout:
    """Return a layout with every sequence twice: once with the boundary's labels, once with the others.

    Losses and gradients are the same; the gradient for the first n student rows is the boundary's, that for
    the second n the rest's.
    """
    s, n, source = len(layout.source), len(layout.student_rows), layout.source
    label_rows = layout.label_rows.clone()
    label_rows[layout.rest] += s
    return replace(
        layout,
        source=torch.cat([torch.where(source < n, source, source + n), source + n]),
        bounds=(*layout.bounds, *(s + bound for bound in layout.bounds[1:])),
        student_rows=layout.student_rows.repeat(2),
        question_rows=torch.cat([layout.question_rows, s + layout.question_rows]),
        label_rows=label_rows,
    )


class _LayoutBuilder:
    """Collects rows sample by sample; teacher rows are numbered from -1 downwards until all student rows are
    known. Samples are as long as their last answer's end.
    """

    def __init__(self, teacher_ids: torch.Tensor) -> None:
        self.teacher_ids = teacher_ids[0].tolist()
        self.source: list[int] = []
        self.bounds: list[int] = [0]
        self.student: list[int] = []
        self.questions: list[int] = []
        self.labelled: list[tuple[int, int, int, bool]] = []

    def end_sample(self) -> None:
        self.bounds.append(len(self.source))

    def add_student_question(self, positions: range) -> None:
        self.questions += range(len(self.source), len(self.source) + len(positions))
        self._add_student_rows(positions)

    def add_teacher_question(self, rows: range) -> None:
        self.questions += range(len(self.source), len(self.source) + len(rows))
        self.source += [-1 - row for row in rows]

    def _add_student_rows(self, positions: range) -> None:
        self.source += range(len(self.student), len(self.student) + len(positions))
        self.student += positions

    def add_answer(
        self, sample_start: int, span: AnswerSpan, boundary_row: int, own: OwnAnswer | None = None
    ) -> None:
        start, end = span
        positions = own.positions if own else range(0)
        rows_before = (own.rows_before if own else None) or [0] * (end - start)
        predicting, placed = len(self.source) - 1, 0
        for j in range(end - start):
            label = self.teacher_ids[sample_start + start + j]
            self.labelled.append((predicting, label, boundary_row + j, j == 0))
            self._add_student_rows(positions[placed : rows_before[j]])
            predicting, placed = len(self.source), rows_before[j]
            self.source.append(-1 - (boundary_row + 1 + j))
        self._add_student_rows(positions[placed:])

    def build(self) -> RecalibratorLayout:
        source = torch.tensor(self.source)
        source = torch.where(source < 0, len(self.student) - 1 - source, source)
        rows, labels, teacher_rows, is_boundary = zip(*self.labelled, strict=True)
        return RecalibratorLayout(
            source=source,
            bounds=tuple(self.bounds),
            student_rows=torch.tensor(self.student, dtype=torch.int64),
            question_rows=torch.tensor(self.questions),
            label_rows=torch.tensor(rows),
            labels=torch.tensor(labels),
            teacher_rows=torch.tensor(teacher_rows),
            # Indices, made here: a mask on a GPU would have to be counted there first.
            boundary=torch.tensor([i for i, first in enumerate(is_boundary) if first], dtype=torch.int64),
            rest=torch.tensor([i for i, first in enumerate(is_boundary) if not first], dtype=torch.int64),
        )
