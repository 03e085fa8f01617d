"""Hands the student loop one unit after another: its own batch, the teacher's tokens, the teacher's features.

Receives are posted `prefetch` units ahead of the one in work, so that features travel while the student
computes.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from genrecal_mcore.data import BatchShape, Microbatch, SampleIndex, SampleOrder, payload_rows
from genrecal_mcore.parallel import MeshSpec
from genrecal_mcore.training.ahead import begun_ahead
from genrecal_mcore.training.answer_inputs import AnswerInputs
from genrecal_mcore.training.stages import Stage
from genrecal_mcore.training.student_unit import StepCounts, StudentUnit
from genrecal_mcore.transfer import FeatureReceiver, RoutePlan, Unit, owner_of_rows, unit_digest

LoadUnit = Callable[[Unit], tuple[Microbatch, ...]]
"""Loads the next unit: the student's batch and, where there is a teacher, the same samples in its tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherSide:
    """What a student rank knows of the teacher: its mesh, its routes and the channel from it."""

    receiver: FeatureReceiver
    plan: RoutePlan
    mesh: MeshSpec
    answers: AnswerInputs | None = None
    """None where the Recalibrator reads the teacher's features of the answers."""


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
    """Counts the tokens of whole steps from the index, without a word to other ranks."""

    index: SampleIndex
    order: SampleOrder
    batch: BatchShape

    def of_step(self, step: int) -> StepCounts:
        """Return the counts of a step."""
        samples = self.order.samples_of_step(step, self.batch)
        facts = [self.index.facts[i] for i in samples]
        return StepCounts(
            teacher_answer_tokens=sum(of_sample.teacher_answer_tokens for of_sample in facts),
            student_answer_tokens=sum(of_sample.student_answer_tokens for of_sample in facts),
            teacher_tokens=sum(of_sample.teacher_tokens for of_sample in facts),
            num_answers=sum(len(self.index[i].turns) for i in samples),
        )


class StudentFeed:
    """Iterates over the units of one student rank."""

    def __init__(
        self,
        load: LoadUnit,
        teacher: TeacherSide | None,
        *,
        stage: Stage,
        counts_of_step: Callable[[int], StepCounts],
        device: torch.device,
    ) -> None:
        self.load = load
        self.teacher = teacher
        self.stage = stage
        self.counts_of_step = counts_of_step
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

    def units(self, planned: Iterable[Unit], *, prefetch: int) -> Iterator[StudentUnit]:
        """Yield the planned units in order."""
        for unit, batches in begun_ahead(planned, self._begin, depth=prefetch):
            yield self._finish(unit, batches)

    def _begin(self, unit: Unit) -> tuple[Microbatch, ...]:
        """Load a unit and post the receives for its features."""
        batches = self.load(unit)
        if self.teacher is None:
            return batches
        _, batch = batches
        rows = payload_rows(batch.answer_spans, batch.lengths, with_questions=self.stage.with_questions)
        owner = owner_of_rows(
            rows,
            tp=self.teacher.mesh.tp,
            padded_length=batch.input_ids.shape[1],
            sequence_parallel=self.teacher.mesh.sequence_parallel,
        )
        digest = unit_digest(batch.sample_ids, batch.lengths, batch.answer_spans)
        self.teacher.receiver.post(unit, digest, owner, self.teacher.plan.replica_of(unit))
        return batches

    def _finish(self, unit: Unit, batches: tuple[Microbatch, ...]) -> StudentUnit:
        """Wait for a unit's features and put everything on the device."""
        batch, *of_teacher = batches
        teacher_batch = of_teacher[0] if of_teacher else None
        payload = answers = None
        if self.teacher is not None:
            assert teacher_batch is not None
            received = self.teacher.receiver.take(unit)
            payload = received.rows
            self.teacher_waited_s[self.teacher.plan.replica_of(unit)] = received.teacher_waited_s
            if self.teacher.answers is not None:
                answers = self.teacher.answers.of_unit(teacher_batch, unit.step, self.device)
        return StudentUnit(
            student=batch.to(self.device),
            teacher=teacher_batch,
            payload=payload,
            counts=self.counts_of_step(unit.step),
            answers=answers,
        )
