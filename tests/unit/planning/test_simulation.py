"""Runs whose course is known without simulating it."""

from itertools import pairwise
from typing import Any

import pytest

from genrecal_mcore.parallel import MeshSpec
from genrecal_mcore.planning.engine import Spent
from genrecal_mcore.planning.simulation import Simulated, SimulatedRun, UnitSeconds, simulate
from genrecal_mcore.transfer import RoutePlan, Unit, units_of_student

MICROBATCHES = 10


def run_of(
    unit: UnitSeconds, *, teacher: dict[str, int] | None, student_dp: int = 1, **changes: Any
) -> SimulatedRun:
    mesh = None if teacher is None else MeshSpec(name="teacher", **teacher)
    plan = RoutePlan(
        accumulation_steps=MICROBATCHES, student_dp=student_dp, teacher_dp=mesh.dp if mesh else 1
    )
    fields = {"prefetch": 2, "num_steps": 3, "step_end": 0.0, "seconds_of": lambda _: unit}
    return SimulatedRun(plan=plan, teacher=mesh, **fields | changes)


def step_seconds(simulated: Simulated) -> list[float]:
    return [after.now - before.now for before, after in pairwise(simulated.ends)]


def spent_in_last_step(simulated: Simulated, what: Spent) -> tuple[float, list[float]]:
    """Return what the first student rank and the stages of replica 0 spent so."""
    before, after = simulated.ends[-2:]
    stages = [after.stages[key][what] - before.stages[key][what] for key in sorted(after.stages)]
    return after.students[0][what] - before.students[0][what], stages


@pytest.mark.parametrize("pp", [1, 2, 4])
def test_equal_stages_never_idle_once_the_pipeline_is_full(pp: int) -> None:
    simulated = simulate(run_of(UnitSeconds(student=1.0, stages=(1.0,) * pp), teacher={"pp": pp}))
    assert step_seconds(simulated) == pytest.approx([10.0, 10.0])
    before, after = simulated.ends[:2]  # in the last step the first stages have no units left
    for key in after.stages:
        busy = after.stages[key][Spent.COMPUTING] - before.stages[key][Spent.COMPUTING]
        assert busy == pytest.approx(10.0)


def test_a_teacher_waits_for_a_slow_student() -> None:
    simulated = simulate(run_of(UnitSeconds(student=2.0, stages=(0.5, 0.5)), teacher={"pp": 2}))
    assert step_seconds(simulated) == pytest.approx([20.0, 20.0])
    starved, _ = spent_in_last_step(simulated, Spent.STARVED)
    before, after = simulated.ends[:2]
    blocked = after.stages[0, 1][Spent.BLOCKED] - before.stages[0, 1][Spent.BLOCKED]
    assert starved == 0.0 and blocked == pytest.approx(20.0 - 5.0)


def test_a_student_waits_for_a_slow_teacher() -> None:
    simulated = simulate(run_of(UnitSeconds(student=1.0, stages=(1.5,)), teacher={}))
    starved, _ = spent_in_last_step(simulated, Spent.STARVED)
    assert starved == pytest.approx(5.0) and step_seconds(simulated)[-1] == pytest.approx(15.0)


def test_a_teacher_with_a_fifth_in_hand_keeps_ragged_students_busy() -> None:
    def seconds_of(unit: Unit) -> UnitSeconds:
        factor = 0.5 + (unit.microbatch * 7 % MICROBATCHES) / (MICROBATCHES - 1)
        return UnitSeconds(student=factor, stages=(factor / 1.2,))

    simulated = simulate(
        run_of(UnitSeconds(student=1.0), teacher={}, seconds_of=seconds_of, prefetch=4, num_steps=4)
    )
    starved, _ = spent_in_last_step(simulated, Spent.STARVED)
    assert starved < 0.05 * step_seconds(simulated)[-1]


def test_two_replicas_serve_twice_as_many_students_in_the_same_time() -> None:
    unit = UnitSeconds(student=1.0, stages=(0.7, 0.8), transfer=0.01, hop=0.02)
    one = simulate(run_of(unit, teacher={"pp": 2}, student_dp=3))
    two = simulate(run_of(unit, teacher={"pp": 2, "dp": 2}, student_dp=6))
    assert step_seconds(two) == pytest.approx(step_seconds(one))


def test_a_channel_of_one_unit_lets_a_slow_link_show() -> None:
    unit = UnitSeconds(student=1.0, stages=(1.0,), transfer=0.5)
    deep, shallow = (
        simulate(run_of(unit, teacher={}, prefetch=prefetch, num_steps=4)) for prefetch in (4, 1)
    )
    assert step_seconds(deep)[-1] == pytest.approx(10.0)
    assert step_seconds(shallow)[-1] >= step_seconds(deep)[-1]


def test_a_link_carries_one_unit_at_a_time() -> None:
    unit = UnitSeconds(student=0.1, stages=(0.1,), transfer=2.0)
    simulated = simulate(run_of(unit, teacher={}))
    assert step_seconds(simulated)[-1] == pytest.approx(20.0)


def test_student_ranks_keep_step_with_the_slowest() -> None:
    def seconds_of(unit: Unit) -> UnitSeconds:
        return UnitSeconds(student=2.0 if unit.student_rank == unit.microbatch % 2 else 1.0)

    run = run_of(UnitSeconds(student=0.0), teacher=None, student_dp=2, seconds_of=seconds_of, step_end=3.0)
    simulated = simulate(run)
    assert step_seconds(simulated) == pytest.approx([23.0, 23.0])
    assert simulated.ends[-1].students[0][Spent.APART] == pytest.approx(3 * 5.0)


@pytest.mark.parametrize(("student_dp", "teacher_dp"), [(1, 1), (3, 2), (2, 3)])
def test_every_unit_is_computed_once_and_in_each_ranks_order(student_dp: int, teacher_dp: int) -> None:
    unit = UnitSeconds(student=1.0, stages=(0.3, 0.4, 0.2), transfer=0.1)
    run = run_of(unit, teacher={"pp": 3, "dp": teacher_dp}, student_dp=student_dp)
    starts = simulate(run).unit_starts
    for rank in range(student_dp):
        planned = list(
            units_of_student(rank, num_microbatches=lambda _: MICROBATCHES, first_step=0, last_step=3)
        )
        assert [u for u in starts if u.student_rank == rank] == planned
        assert all(starts[a] < starts[b] for a, b in pairwise(planned))
    assert len(starts) == 3 * MICROBATCHES * student_dp


def test_ranks_that_share_a_core_take_as_long_as_all_their_work() -> None:
    unit = UnitSeconds(student=1.0, stages=(0.5, 0.25), decoding=0.01, rendering=0.02, loading=0.03)
    simulated = simulate(run_of(unit, teacher={"pp": 2}, cores=1, step_end=0.3))
    work = MICROBATCHES * (1.0 + 0.5 + 0.25 + 0.01 + 0.02 + 0.03) + 0.3
    assert step_seconds(simulated)[0] == pytest.approx(work)


def test_a_stage_over_tp_ranks_takes_as_many_cores() -> None:
    unit = UnitSeconds(student=1.0, stages=(1.0,))
    narrow, wide = (
        simulate(run_of(unit, teacher={"tp": tp}, student_dp=1, cores=2)).ends[0].now for tp in (1, 2)
    )
    assert narrow == pytest.approx(11.0)
    assert wide == pytest.approx(1.0 + 10 * 1.5)  # then three ranks compute on two cores
