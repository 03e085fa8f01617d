"""Hands the student loop one unit after another: its own batch, the teacher's tokens, the teacher's features.

Features are asked for `prefetch` units ahead of the one in work, so that they travel, or are read, while the
student computes.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from genrecal_mcore.data import BatchShape, Microbatch, SampleIndex, StepOrder
from genrecal_mcore.training.ahead import begun_ahead
from genrecal_mcore.training.answer_inputs import AnswerInputs
from genrecal_mcore.training.features import FeatureSource, Waits
from genrecal_mcore.training.student_unit import StepCounts, StudentUnit
from genrecal_mcore.transfer import Unit

LoadUnit = Callable[[Unit], tuple[Microbatch, ...]]
"""Loads the next unit: the student's batch and, where there is a teacher, the same samples in its tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTokens:
    """Counts the tokens of whole steps from the index, without a word to other ranks."""

    index: SampleIndex
    order: StepOrder
    batch: BatchShape

    def of_step(self, step: int) -> StepCounts:
        """Return the counts of a step."""
        counts = self.index.total_counts(self.order.samples_of_step(step, self.batch))
        return StepCounts(
            teacher_answer_tokens=counts["teacher_answer_tokens"],
            student_answer_tokens=counts["student_answer_tokens"],
            teacher_tokens=counts["teacher_tokens"],
            num_answers=counts["num_answers"],
        )


class StudentFeed:
    """Iterates over the units of one student rank."""

    def __init__(
        self,
        load: LoadUnit,
        features: FeatureSource | None,
        *,
        answers: AnswerInputs | None = None,
        counts_of_step: Callable[[int], StepCounts],
        device: torch.device,
    ) -> None:
        """`features`: None where no teacher takes part; `answers`: what stands for some of them, if any."""
        self.load = load
        self.features = features
        self.answers = answers
        self.counts_of_step = counts_of_step
        self.device = device

    @property
    def waits(self) -> Waits:
        """What waiting and transfer have cost this rank so far."""
        return Waits() if self.features is None else self.features.waits

    def units(self, planned: Iterable[Unit], *, prefetch: int) -> Iterator[StudentUnit]:
        """Yield the planned units in order."""
        for unit, batches in begun_ahead(planned, self._begin, depth=prefetch):
            yield self._finish(unit, batches)

    def _begin(self, unit: Unit) -> tuple[Microbatch, ...]:
        """Load a unit and ask for its features."""
        batches = self.load(unit)
        if self.features is not None:
            _, teacher_batch = batches
            self.features.begin(unit, teacher_batch)
        return batches

    def _finish(self, unit: Unit, batches: tuple[Microbatch, ...]) -> StudentUnit:
        """Wait for a unit's features and put everything on the device."""
        batch, *of_teacher = batches
        teacher_batch = of_teacher[0] if of_teacher else None
        payload = answers = None
        if self.features is not None:
            assert teacher_batch is not None
            payload = self.features.take(unit, teacher_batch)
            if self.answers is not None:
                answers = self.answers.of_unit(teacher_batch, unit.step, self.device)
        return StudentUnit(
            student=batch.to(self.device),
            teacher=teacher_batch,
            payload=payload,
            counts=self.counts_of_step(unit.step),
            answers=answers,
        )
