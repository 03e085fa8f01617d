from collections.abc import Callable
from itertools import product

import pytest
import torch

from genrecal_mcore.transfer import (
    RoutePlan,
    Unit,
    edges,
    owner_of_rows,
    units_of_replica,
    units_of_student,
)

SIZES = [1, 2, 3, 4, 5, 6]
MICROBATCHES: dict[str, Callable[[int], int] | None] = {"as many": None, "varying": lambda step: 1 + step % 5}


@pytest.mark.parametrize(("student_dp", "teacher_dp"), list(product(SIZES, SIZES)))
@pytest.mark.parametrize("microbatches", MICROBATCHES)
def test_every_unit_has_one_replica_and_both_sides_agree(
    microbatches: str, student_dp: int, teacher_dp: int
) -> None:
    plan = RoutePlan(
        accumulation_steps=3,
        student_dp=student_dp,
        teacher_dp=teacher_dp,
        microbatches_of=MICROBATCHES[microbatches],
    )
    first, last = 2, 9
    served = [
        (unit, replica)
        for replica in range(teacher_dp)
        for unit in units_of_replica(replica, plan, first, last)
    ]
    asked = [
        unit
        for student in range(student_dp)
        for unit in units_of_student(
            student, num_microbatches=plan.num_microbatches, first_step=first, last_step=last
        )
    ]
    assert len(asked) == len(served) and set(asked) == {unit for unit, _ in served}
    assert all(plan.replica_of(unit) == replica for unit, replica in served)
    assert {(replica, unit.student_rank) for unit, replica in served} <= set(edges(student_dp, teacher_dp))


@pytest.mark.parametrize(("student_dp", "teacher_dp"), list(product(SIZES, SIZES)))
def test_edges_are_exactly_the_pairs_that_meet(student_dp: int, teacher_dp: int) -> None:
    plan = RoutePlan(accumulation_steps=1, student_dp=student_dp, teacher_dp=teacher_dp)
    units = [Unit(step=s, microbatch=0, student_rank=r) for s in range(60) for r in range(student_dp)]
    assert set(edges(student_dp, teacher_dp)) == {(plan.replica_of(u), u.student_rank) for u in units}


@pytest.mark.parametrize("microbatches", MICROBATCHES)
def test_replicas_and_students_walk_in_the_same_order(microbatches: str) -> None:
    plan = RoutePlan(
        accumulation_steps=2, student_dp=3, teacher_dp=2, microbatches_of=MICROBATCHES[microbatches]
    )
    order = [
        Unit(step=step, microbatch=microbatch, student_rank=rank)
        for step in range(1, 5)
        for microbatch in range(plan.num_microbatches(step))
        for rank in range(3)
    ]
    for replica in range(2):
        numbers = [order.index(unit) for unit in units_of_replica(replica, plan, 1, 5)]
        assert numbers and numbers == sorted(numbers)
    for student in range(3):
        units = units_of_student(student, num_microbatches=plan.num_microbatches, first_step=1, last_step=5)
        numbers = [order.index(unit) for unit in units]
        assert numbers and numbers == sorted(numbers)


def test_load_of_varying_steps_is_about_even() -> None:
    plan = RoutePlan(
        accumulation_steps=3, student_dp=4, teacher_dp=3, microbatches_of=MICROBATCHES["varying"]
    )
    counts = [len(list(units_of_replica(replica, plan, 0, 100))) for replica in range(3)]
    assert max(counts) - min(counts) <= 0.05 * max(counts)


def test_load_is_even_within_one_unit() -> None:
    plan = RoutePlan(accumulation_steps=3, student_dp=5, teacher_dp=4)
    counts = [len(list(units_of_replica(replica, plan, 0, 7))) for replica in range(4)]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("tp", [1, 2, 3, 4])
def test_without_sequence_parallelism_tp_ranks_send_even_stretches(tp: int) -> None:
    positions = torch.tensor([3, 4, 5, 9, 10, 11, 12])
    owner = owner_of_rows(positions, tp=tp, padded_length=16, sequence_parallel=False).tolist()
    assert owner == sorted(owner)
    counts = [owner.count(rank) for rank in range(tp)]
    assert sum(counts) == 7 and max(counts) - min(counts) <= 1


def test_with_sequence_parallelism_a_rank_sends_what_lies_in_its_stretch() -> None:
    positions = torch.tensor([3, 4, 7, 8, 15, 0])
    owner = owner_of_rows(positions, tp=4, padded_length=16, sequence_parallel=True)
    assert owner.tolist() == [0, 1, 1, 2, 3, 0]


def test_no_rows_have_no_owners() -> None:
    none = torch.empty(0, dtype=torch.int64)
    assert owner_of_rows(none, tp=2, padded_length=4, sequence_parallel=False).shape == (0,)
