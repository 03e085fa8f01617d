"""What the plan of units promises, counted and simulated: full pipelines, scale, few bytes.

Example: python -m benchmarks.planning --rounds 5
"""

import statistics
import time
from collections.abc import Sequence
from typing import Annotated

import typer

from benchmarks.results import Benchmark, Target, show
from genrecal_mcore.cli.console import table_console
from genrecal_mcore.data import payload_rows
from genrecal_mcore.parallel import MeshSpec
from genrecal_mcore.planning.engine import Spent
from genrecal_mcore.planning.simulation import Simulated, SimulatedRun, UnitSeconds, simulate
from genrecal_mcore.transfer import HEADER_BYTES, RoutePlan, Unit, edges, units_of_replica

MICROBATCHES, STUDENT_RANKS, STUDENT_RANKS_A_REPLICA = 16, (64, 128, 256, 512, 1024, 2048), 4
TEACHER_RATE = 1.2
"""Units that the teacher could compute while the student computes one."""
SEQUENCE_TOKENS, ANSWER_TOKENS, VOCABULARY, HIDDEN_SIZE, ELEMENT_SIZE = 4096, 256, 152064, 8192, 2


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Times that planning is timed; the median counts.")] = 5,
) -> None:
    """Print occupancy, waits, step times to 2048 student ranks, planning time and bytes."""
    show(measure(rounds=rounds), table_console())


def measure(*, rounds: int) -> Benchmark:
    """Simulate and count; only the planning itself is timed."""
    occupancy = {pp: least_occupancy(pp) for pp in (2, 4)}
    wait = student_wait()
    steps = {dp: step_seconds(scaled_run(dp)) for dp in STUDENT_RANKS}
    growth = max(steps.values()) / steps[STUDENT_RANKS[0]]
    planning_s = statistics.median(planning_seconds(STUDENT_RANKS[-1]) for _ in range(rounds))
    payload, logits = payload_bytes(), SEQUENCE_TOKENS * VOCABULARY * ELEMENT_SIZE
    header_share = HEADER_BYTES / payload
    return Benchmark(
        title="What the plan of units promises",
        command=f"python -m benchmarks.planning --rounds {rounds}",
        about=(
            f"Simulated: {MICROBATCHES} microbatches a step of ragged units, the longest three times the "
            f"shortest; {STUDENT_RANKS_A_REPLICA} student ranks a teacher replica. Counted: a sample of "
            f"{SEQUENCE_TOKENS} tokens, {ANSWER_TOKENS} of them an answer, hidden size {HIDDEN_SIZE}, "
            f"vocabulary {VOCABULARY}, 16 bits."
        ),
        header=("what", "value"),
        rows=[
            *((f"least busy stage once full, pp {pp}", f"{share:.1%}") for pp, share in occupancy.items()),
            (f"student waits, teacher {TEACHER_RATE} times as fast", f"{wait:.1%}"),
            *((f"step with {dp} student ranks", f"{seconds:.2f} s") for dp, seconds in steps.items()),
            (f"routes of a step, {STUDENT_RANKS[-1]} student ranks", f"{planning_s:.2f} s"),
            ("header of a unit of one sample, of its payload", f"{header_share:.4%}"),
            ("bytes of a sample, of whole logits", f"1/{logits / (payload + HEADER_BYTES):.0f}"),
        ],
        targets=[
            *(
                Target(name=f"occupancy, pp {pp}", measured=100 * share, sense="at least", limit=95, unit="%")
                for pp, share in occupancy.items()
            ),
            Target(name="student waits", measured=100 * wait, sense="at most", limit=5, unit="%"),
            Target(name="step at any number of student ranks", measured=growth, sense="at most", limit=1.05),
            Target(name="planning routes", measured=planning_s, sense="at most", limit=1.0, unit="s"),
            Target(name="header", measured=100 * header_share, sense="at most", limit=0.1, unit="%"),
            Target(
                name="whole logits against what is sent",
                measured=logits / (payload + HEADER_BYTES),
                sense="at least",
                limit=250,
            ),
        ],
    )


def ragged(unit: Unit) -> float:
    """Return a unit's length, between a half and one and a half of the mean."""
    number = unit.microbatch * 7 + unit.student_rank * 13 + unit.step * 5
    return 0.5 + (number % 11) / 10


def run_of(*, student_dp: int, teacher: MeshSpec, stage_s: float, student_s: float) -> SimulatedRun:
    """Return a run whose stages and student take this long for a mean unit."""

    def seconds_of(unit: Unit) -> UnitSeconds:
        length = ragged(unit)
        return UnitSeconds(student=student_s * length, stages=(stage_s * length,) * teacher.pp)

    plan = RoutePlan(accumulation_steps=MICROBATCHES, student_dp=student_dp, teacher_dp=teacher.dp)
    return SimulatedRun(
        plan=plan, teacher=teacher, prefetch=4, num_steps=3, seconds_of=seconds_of, step_end=0.0
    )


def least_occupancy(pp: int) -> float:
    """Return the share of the second step in which the least busy stage computes, if nobody is slower."""
    teacher = MeshSpec(name="teacher", pp=pp)
    simulated = simulate(run_of(student_dp=1, teacher=teacher, stage_s=1.0, student_s=0.9))
    before, after = simulated.ends[0], simulated.ends[1]
    return min(spent_between(simulated, stage) / (after.now - before.now) for stage in range(pp))


def spent_between(simulated: Simulated, stage: int) -> float:
    """Return the seconds that a stage computes in the second step."""
    before, after = (end.stages[0, stage][Spent.COMPUTING] for end in simulated.ends[:2])
    return after - before


def student_wait() -> float:
    """Return the share of the second step in which the student waits for a teacher with a little in hand."""
    teacher = MeshSpec(name="teacher", pp=2)
    simulated = simulate(run_of(student_dp=1, teacher=teacher, stage_s=1 / TEACHER_RATE, student_s=1.0))
    before, after = simulated.ends[:2]
    starved = after.students[0][Spent.STARVED] - before.students[0][Spent.STARVED]
    return starved / (after.now - before.now)


def scaled_run(student_dp: int) -> SimulatedRun:
    """Return a run of so many student ranks and as many replicas as they keep busy."""
    teacher = MeshSpec(name="teacher", pp=4, dp=student_dp // STUDENT_RANKS_A_REPLICA)
    stage_s = 1.0 / STUDENT_RANKS_A_REPLICA / TEACHER_RATE
    return run_of(student_dp=student_dp, teacher=teacher, stage_s=stage_s, student_s=1.0)


def step_seconds(run: SimulatedRun) -> float:
    """Return the length of the second step."""
    before, after = simulate(run).ends[:2]
    return after.now - before.now


def planning_seconds(student_dp: int) -> float:
    """Return the time in which one process finds every replica's routes for a step, and who meets whom."""
    teacher_dp = student_dp // STUDENT_RANKS_A_REPLICA
    plan = RoutePlan(accumulation_steps=MICROBATCHES, student_dp=student_dp, teacher_dp=teacher_dp)
    started = time.perf_counter()
    routes: list[Sequence[Unit]] = [list(units_of_replica(r, plan, 0, 1)) for r in range(teacher_dp)]
    met = edges(student_dp, teacher_dp)
    seconds = time.perf_counter() - started
    assert sum(map(len, routes)) == MICROBATCHES * student_dp and met
    return seconds


def payload_bytes() -> int:
    """Return the bytes of a sample's rows as they travel in stage 2."""
    answer = (SEQUENCE_TOKENS - ANSWER_TOKENS, SEQUENCE_TOKENS)
    rows = payload_rows([[answer]], [SEQUENCE_TOKENS], with_questions=False)
    return len(rows) * HIDDEN_SIZE * ELEMENT_SIZE


if __name__ == "__main__":
    typer.run(main)
