"""Hands the student loop one unit after another: its own batch, the teacher's tokens, the teacher's features.

Receives are posted `prefetch` units ahead of the one in work, so that features travel while the student
computes.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from genrecal_mcore.data import BatchShape, Microbatch, SampleIndex, SampleOrder, UnitLoader, payload_rows
from genrecal_mcore.training.stages import Stage
from genrecal_mcore.training.student_module import StudentUnit
from genrecal_mcore.transfer import (
    FeatureReceiver,
    RoutePlan,
    Unit,
    owner_of_rows,
    unit_digest,
    units_of_student,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherSide:
    """What a student rank knows of the teacher: its tokens, its routes and the channel from it."""

    loader: UnitLoader
    receiver: FeatureReceiver
    plan: RoutePlan
    tp: int
    sequence_parallel: bool

    @property
    def pad_to_multiple_of(self) -> int:
        """Sequence parallelism cuts sequences into tp equal parts."""
        return self.tp if self.sequence_parallel else 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Waits:
    """Running totals of one student rank."""

    student_s: float = 0.0
    """Seconds this rank waited for features."""
    teacher_s: float = 0.0
    """Seconds the slowest-served teacher replica waited for students."""
    bytes_received: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTokens:
    """Counts the label-bearing tokens of whole steps from the index, without a word to other ranks."""

    index: SampleIndex
    order: SampleOrder
    batch: BatchShape

    def of_step(self, step: int) -> tuple[int, int]:
        """Return the answer tokens of a step in the teacher's and in the student's tokenizer."""
        samples = self.order.samples_of_step(step, self.batch)
        teacher = sum(self.index.facts[i].teacher_answer_tokens for i in samples)
        student = sum(self.index.facts[i].student_answer_tokens for i in samples)
        return teacher, student


class StudentFeed:
    """Iterates over the units of one student rank, from the first microbatch of `first_step` on."""

    def __init__(
        self,
        loader: UnitLoader,
        teacher: TeacherSide | None,
        *,
        stage: Stage,
        tokens: StepTokens,
        device: torch.device,
    ) -> None:
        self.loader = loader
        self.teacher = teacher
        self.stage = stage
        self.tokens = tokens
        self.device = device
        self.teacher_waited_s: dict[int, float] = {}
        """Seconds that each teacher replica waited for students so far, as its last header said."""

    @property
    def waits(self) -> "Waits":
        """What waiting and transfer have cost this rank so far."""
        if self.teacher is None:
            return Waits()
        return Waits(
            student_s=self.teacher.receiver.waited_s,
            teacher_s=max(self.teacher_waited_s.values(), default=0.0),
            bytes_received=self.teacher.receiver.bytes_received,
        )

    def units(
        self,
        student_rank: int,
        *,
        num_microbatches: Callable[[int], int],
        first_step: int,
        last_step: int,
        prefetch: int,
    ) -> Iterator[StudentUnit]:
        """Yield the rank's units of steps `[first_step, last_step)` in order."""
        planned = units_of_student(
            student_rank, num_microbatches=num_microbatches, first_step=first_step, last_step=last_step
        )
        ahead: deque[tuple[Unit, Microbatch | None]] = deque()
        for unit in planned:
            ahead.append((unit, self._post(unit)))
            if len(ahead) > prefetch:
                yield self._take(*ahead.popleft())
        while ahead:
            yield self._take(*ahead.popleft())

    def _post(self, unit: Unit) -> Microbatch | None:
        """Render the teacher's view of a unit and post the receives for its features."""
        if self.teacher is None:
            return None
        batch = self.teacher.loader.load(
            unit.step,
            unit.microbatch,
            unit.student_rank,
            with_pixels=False,
            pad_to_multiple_of=self.teacher.pad_to_multiple_of,
        )
        rows = payload_rows(batch.answer_spans, batch.lengths, with_questions=self.stage.with_questions)
        owner = owner_of_rows(
            rows,
            tp=self.teacher.tp,
            padded_length=batch.input_ids.shape[1],
            sequence_parallel=self.teacher.sequence_parallel,
        )
        digest = unit_digest(batch.sample_ids, batch.lengths, batch.answer_spans)
        self.teacher.receiver.post(unit, digest, owner, self.teacher.plan.replica_of(unit))
        return batch

    def _take(self, unit: Unit, teacher_batch: Microbatch | None) -> StudentUnit:
        """Wait for a unit's features and put everything on the device."""
        batch = self.loader.load(unit.step, unit.microbatch, unit.student_rank, with_pixels=True)
        payload = None
        if self.teacher is not None:
            received = self.teacher.receiver.take(unit)
            payload = received.rows
            self.teacher_waited_s[self.teacher.plan.replica_of(unit)] = received.teacher_waited_s
        teacher_tokens, student_tokens = self.tokens.of_step(unit.step)
        return StudentUnit(
            student=batch.to(self.device),
            teacher=teacher_batch,
            payload=payload,
            teacher_answer_tokens=teacher_tokens,
            student_answer_tokens=student_tokens,
        )
