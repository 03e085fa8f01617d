"""Who serves whom: pure arithmetic over units of work, the same on both sides of the channel."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd

import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """One microbatch of one student rank in one step: what one transfer carries."""

    step: int
    microbatch: int
    student_rank: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutePlan:
    """Deals units out to teacher replicas in turn, for any ratio of dp sizes.

    Replicas take units in the order (step, microbatch, student rank), which is also the order in which
    students ask: nobody can wait in a circle.
    """

    accumulation_steps: int
    student_dp: int
    teacher_dp: int

    def number_of(self, unit: Unit) -> int:
        """Return the running number of a unit over the whole run."""
        return (unit.step * self.accumulation_steps + unit.microbatch) * self.student_dp + unit.student_rank

    def unit_at(self, number: int) -> Unit:
        """Return the unit with a running number."""
        group, student_rank = divmod(number, self.student_dp)
        step, microbatch = divmod(group, self.accumulation_steps)
        return Unit(step=step, microbatch=microbatch, student_rank=student_rank)

    def replica_of(self, unit: Unit) -> int:
        """Return the teacher replica that serves a unit."""
        return self.number_of(unit) % self.teacher_dp


def units_of_replica(replica: int, plan: RoutePlan, first_step: int, last_step: int) -> Iterator[Unit]:
    """Yield the units of steps `[first_step, last_step)` that a replica serves, in order."""
    per_step = plan.accumulation_steps * plan.student_dp
    first = first_step * per_step
    for number in range(first + (replica - first) % plan.teacher_dp, last_step * per_step, plan.teacher_dp):
        yield plan.unit_at(number)


def units_of_student(
    student_rank: int, *, accumulation_steps: int, first_step: int, last_step: int
) -> Iterator[Unit]:
    """Yield the units of steps `[first_step, last_step)` that a student rank works on, in order."""
    for step in range(first_step, last_step):
        for microbatch in range(accumulation_steps):
            yield Unit(step=step, microbatch=microbatch, student_rank=student_rank)


def edges(student_dp: int, teacher_dp: int) -> tuple[tuple[int, int], ...]:
    """Return exactly the (replica, student rank) pairs that ever exchange features.

    A student's units have numbers congruent to its rank modulo `student_dp`, a replica's congruent to its own
    modulo `teacher_dp`: they meet when both agree modulo the greatest common divisor.
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
