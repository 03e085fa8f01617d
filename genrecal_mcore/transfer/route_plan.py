"""Who serves whom: pure arithmetic over units of work, the same on both sides of the channel."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import gcd

import torch

from genrecal_mcore.status import Unit


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutePlan:
    """Deals units out to teacher replicas in turn, for any ratio of dp sizes.

    Replicas take units in the order (step, microbatch, student rank), which is also the order in which
    students ask: nobody can wait in a circle.
    """

    accumulation_steps: int
    """Microbatches of every step, unless `microbatches_of` counts them."""
    student_dp: int
    teacher_dp: int
    microbatches_of: Callable[[int], int] | None = None
    """Counts the microbatches of a step, where steps differ."""

    def num_microbatches(self, step: int) -> int:
        """Return how many microbatches a step has."""
        return self.accumulation_steps if self.microbatches_of is None else self.microbatches_of(step)

    def replica_of(self, unit: Unit) -> int:
        """Return the teacher replica that serves a unit.

        Steps of as many microbatches each go on where the one before ended. Where they differ, each begins a
        microbatch further than the one before: even on average, and nobody counts all steps before.
        """
        number = unit.microbatch * self.student_dp + unit.student_rank
        return (self.first_number(unit.step) + number) % self.teacher_dp

    def first_number(self, step: int) -> int:
        """Return the running number of a step's first unit, from which its replica follows."""
        per_step = self.accumulation_steps if self.microbatches_of is None else 1
        return step * per_step * self.student_dp


def units_of_replica(replica: int, plan: RoutePlan, first_step: int, last_step: int) -> Iterator[Unit]:
    """Yield the units of steps `[first_step, last_step)` that a replica serves, in order."""
    for step in range(first_step, last_step):
        first = (replica - plan.first_number(step)) % plan.teacher_dp
        for number in range(first, plan.num_microbatches(step) * plan.student_dp, plan.teacher_dp):
            microbatch, student_rank = divmod(number, plan.student_dp)
            yield Unit(step=step, microbatch=microbatch, student_rank=student_rank)


def units_of_student(
    student_rank: int, *, num_microbatches: Callable[[int], int], first_step: int, last_step: int
) -> Iterator[Unit]:
    """Yield the units of steps `[first_step, last_step)` that a student rank works on, in order."""
    for step in range(first_step, last_step):
        for microbatch in range(num_microbatches(step)):
            yield Unit(step=step, microbatch=microbatch, student_rank=student_rank)


def edges(student_dp: int, teacher_dp: int) -> tuple[tuple[int, int], ...]:
    """Return exactly the (replica, student rank) pairs that ever exchange features.

    `RoutePlan.replica_of` counts in numbers that are congruent to the student's rank modulo `student_dp`, and
    to the replica's modulo `teacher_dp`: they meet when both agree modulo the greatest common divisor.
    """
    common = gcd(student_dp, teacher_dp)
    return tuple(
        (replica, student)
        for replica in range(teacher_dp)
        for student in range(student_dp)
        if replica % common == student % common
    )


def owner_of_rows(
    positions: torch.Tensor, *, tp: int, padded_length: int, sequence_parallel: bool
) -> torch.Tensor:
    """Return for each of t payload rows at `positions` `[t]` the tp rank of the last stage that sends it.

    Under sequence parallelism a rank holds a stretch of positions and sends what lies in it; otherwise each
    rank holds every row and sends an even share.
    """
    if sequence_parallel:
        return positions // (padded_length // tp)
    return torch.arange(len(positions), device=positions.device) * tp // max(1, len(positions))
