"""Measures how busy the real loops keep stages that only take time: the teacher's pipeline, and the student.

Example: python -m benchmarks.pipeline --rounds 5
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated

import torch
import torch.distributed as dist
import typer

from benchmarks.results import Benchmark, Target, show
from genrecal_mcore.cli.console import table_console
from genrecal_mcore.data import Microbatch
from genrecal_mcore.models import Packing
from genrecal_mcore.parallel import Layout, MeshSpec, Topology, build_topology
from genrecal_mcore.status import unrecorded_status
from genrecal_mcore.training.features import ChannelFeatures
from genrecal_mcore.training.pipeline import PipelineLink
from genrecal_mcore.training.stages import Stage
from genrecal_mcore.training.student_feed import StudentFeed
from genrecal_mcore.training.student_unit import StepCounts
from genrecal_mcore.training.teacher_loop import TeacherRank, run_teacher
from genrecal_mcore.transfer import Edge, FeatureReceiver, FeatureSender, RoutePlan, Unit
from tests.helpers.rank_pool import RankPool

STAGE_S = 0.1
TEACHER_RATE = 1.2
"""Units that the teacher could compute while the student computes one."""
TOKENS, ANSWER_TOKENS, HIDDEN_SIZE = 1024, 128, 512
"""Of a unit; hidden states between stages are 2 MiB, features 0.25 MiB."""
COUNTS = StepCounts(
    teacher_answer_tokens=ANSWER_TOKENS,
    student_answer_tokens=ANSWER_TOKENS,
    teacher_tokens=TOKENS,
    num_answers=1,
)
NUM_UNITS, PREFETCH, TIMEOUT_S = 24, 2, 60.0
LEAST_OCCUPANCY, MOST_WAIT = 0.95, 0.05
Busy = list[tuple[float, float]]
"""When a rank began and ended each of its units, in seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How long each unit takes."""

    pp: int
    teacher_s: float
    """On each stage."""
    student_s: float
    alternates: bool = False
    """Whether the teacher begins a unit only when the student is done with the one before."""


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Times that each is run; medians are shown.")] = 5,
) -> None:
    """Print the occupancy of the teacher's stages, the student's wait, and what alternating would cost."""
    show(measure(rounds=rounds), table_console())


def measure(*, rounds: int) -> Benchmark:
    """Run each pace `rounds` times, in turn, over gloo on this machine."""
    runs = run_in_turn(rounds)
    least = [(name, statistics.median(map(stages_occupancy, runs[name]))) for name in ("pp 2", "pp 4")]
    wait = statistics.median(1 - share_busy(after_fill(ranks[-1])) for ranks in runs["ahead"])
    step_s = {name: statistics.median(map(seconds_a_unit, runs[name])) for name in ("ahead", "alternating")}
    return Benchmark(
        title="Stages and student kept busy",
        command=f"python -m benchmarks.pipeline --rounds {rounds}",
        about=(
            f"The real loops and channels over gloo, with stages that wait {STAGE_S:g} s for each of "
            f"{NUM_UNITS} units instead of computing; after the first fill, medians of {rounds}. In the last "
            f"two rows a teacher of one stage could be {TEACHER_RATE} times as fast as the student. "
            "Alternating, it begins a unit when the student is done with the one before."
        ),
        header=("what", "measured"),
        rows=[
            *((f"least busy stage, of what the slowest allows, {name}", percent(x)) for name, x in least),
            ("student not computing", percent(wait)),
            ("alternating against running ahead", f"{step_s['alternating'] / step_s['ahead']:.2f} x"),
        ],
        targets=[
            *(at_least(LEAST_OCCUPANCY, x, f"stages' occupancy at {name}") for name, x in least),
            Target(name="student's wait", measured=wait, sense="at most", limit=MOST_WAIT, unit="of a step"),
        ],
    )


def run_in_turn(rounds: int) -> dict[str, list[list[Busy]]]:
    """Return when each rank was busy, by pace and round."""
    student_s = STAGE_S * TEACHER_RATE
    paces = {
        "pp 2": Pace(pp=2, teacher_s=STAGE_S, student_s=0.0),
        "pp 4": Pace(pp=4, teacher_s=STAGE_S, student_s=0.0),
        "ahead": Pace(pp=1, teacher_s=STAGE_S, student_s=student_s),
        "alternating": Pace(pp=1, teacher_s=STAGE_S, student_s=student_s, alternates=True),
    }
    runs: dict[str, list[list[Busy]]] = {name: [] for name in paces}
    pool = RankPool()
    for _ in range(rounds):
        for name, pace in paces.items():
            runs[name].append(pool.run(run_rank, pace.pp + 1, pace))
    pool.close()
    return runs


def percent(share: float) -> str:
    """Return a share as people read it."""
    return f"{100 * share:.1f} %"


def at_least(limit: float, measured: float, name: str) -> Target:
    """Return a target for a share of time."""
    return Target(name=name, measured=measured, sense="at least", limit=limit, unit="of the time")


def after_fill(busy: Busy) -> Busy:
    """Leave out the units during which stages, links and the student's receives fill up."""
    return busy[len(busy) // 4 :]


def share_busy(busy: Busy) -> float:
    """Return the share of the time from the first unit's beginning to the last one's end."""
    return busy_s(busy) / (busy[-1][1] - busy[0][0])


def busy_s(busy: Busy) -> float:
    """Return the seconds spent in units."""
    return sum(end - start for start, end in busy)


def stages_occupancy(ranks: Sequence[Busy]) -> float:
    """Return the least occupancy of a teacher's stages, of what the slowest of them allows."""
    stages = [after_fill(busy) for busy in ranks[:-1]]
    slowest_s = max(map(busy_s, stages))
    return min(slowest_s / (busy[-1][1] - busy[0][0]) for busy in stages)


def seconds_a_unit(ranks: Sequence[Busy]) -> float:
    """Return the student's seconds from one unit to the next."""
    starts = [start for start, _ in after_fill(ranks[-1])]
    return (starts[-1] - starts[0]) / (len(starts) - 1)


class Waiter:
    """Takes time as a computation would, and says when."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.busy: Busy = []

    def __call__(self) -> None:
        """Take one unit's time."""
        started = time.perf_counter()
        time.sleep(self.seconds)
        self.busy.append((started, time.perf_counter()))


class WaitingBody:
    """Stands in for a stage's decoder layers."""

    def __init__(self, topology: Topology, pace: Pace) -> None:
        self.groups = topology.teacher_groups
        self.config = SimpleNamespace(
            tensor_model_parallel_size=1, sequence_parallel=False, hidden_size=HIDDEN_SIZE
        )
        self.wait = Waiter(pace.teacher_s)

    def __call__(self, hidden_states: torch.Tensor, _: torch.Tensor, __: Packing) -> torch.Tensor:
        """Return `[t, 1, h]` as it came."""
        self.wait()
        return hidden_states


class WaitingStage:
    """Stands in for a `TeacherStage`."""

    def __init__(self, topology: Topology, pace: Pace) -> None:
        self.body = WaitingBody(topology, pace)
        self.is_first_stage = topology.rank == 0
        self.student_rank = pace.pp if pace.alternates else None

    def embed(self, input_ids: torch.Tensor, _: None) -> torch.Tensor:
        """Return `[t, 1, h]`; alternating, when the student is done with the unit before."""
        if self.student_rank is not None and self.body.wait.busy:
            dist.recv(torch.empty(1), src=self.student_rank)
        return torch.zeros(input_ids.shape[1], 1, HIDDEN_SIZE)


def run_rank(pace: Pace) -> Busy:
    """Run the loop of this rank of a teacher of `pp` stages and one student; return when it was busy."""
    teacher = MeshSpec(name="teacher", pp=pace.pp)
    layout = Layout(teacher=teacher, student=MeshSpec(name="student", rank_offset=pace.pp))
    rank = dist.get_rank()
    topology = build_topology(layout, rank=rank, device=torch.device("cpu"), served_pairs=[(0, 0)])
    return run_stage(topology, pace) if topology.is_teacher else run_waiting_student(topology, pace)


def planned_units() -> list[Unit]:
    """Return the units of one student rank, a step each."""
    return [Unit(step=step, microbatch=0, student_rank=0) for step in range(NUM_UNITS)]


def batch_of(unit: Unit) -> Microbatch:
    """Return a unit's tokens: one sample with one answer."""
    return Microbatch(
        sample_ids=(str(unit),),
        input_ids=torch.zeros(1, TOKENS, dtype=torch.int64),
        position_ids=torch.arange(TOKENS)[None],
        lengths=(TOKENS,),
        answer_spans=(((TOKENS - ANSWER_TOKENS, TOKENS),),),
        vision=None,
    )


STAGE = Stage(student_learns="lora", has_teacher=True, student_path=True)


def run_stage(topology: Topology, pace: Pace) -> Busy:
    """Run the teacher loop on one stage."""
    status = unrecorded_status()
    sender = None
    for (_, receiver), group in topology.edges.items():
        sender = FeatureSender(
            {0: Edge(group=group, peer_rank=receiver)},
            is_header_sender=True,
            prefetch=PREFETCH,
            timeout_s=TIMEOUT_S,
            who=topology.layout.who,
            status=status,
        )
    stage = WaitingStage(topology, pace)
    rank = TeacherRank(
        teacher=stage,
        load=lambda unit: (batch_of(unit),),
        link=PipelineLink(topology, dtype=torch.float32, timeout_s=TIMEOUT_S, status=status),
        sender=sender,
        stage=STAGE,
        device=topology.device,
        status=status,
    )
    run_teacher(rank, planned_units())
    return stage.body.wait.busy


def run_waiting_student(topology: Topology, pace: Pace) -> Busy:
    """Take every unit from the real feed, and its time."""
    ((sender, _), group), *_ = topology.edges.items()
    receiver = FeatureReceiver(
        {(0, 0): Edge(group=group, peer_rank=sender)},
        timeout_s=TIMEOUT_S,
        hidden_size=HIDDEN_SIZE,
        dtype=torch.float32,
        device=topology.device,
        who=topology.layout.who,
        status=unrecorded_status(),
    )
    assert topology.layout.teacher is not None
    plan = RoutePlan(accumulation_steps=1, student_dp=1, teacher_dp=1)
    feed = StudentFeed(
        lambda unit: (batch_of(unit), batch_of(unit)),
        ChannelFeatures(receiver, plan, topology.layout.teacher, with_questions=STAGE.with_questions),
        counts_of_step=lambda _: COUNTS,
        device=topology.device,
    )
    wait = Waiter(pace.student_s)
    for _ in feed.units(planned_units(), prefetch=PREFETCH):
        wait()
        if pace.alternates and len(wait.busy) < NUM_UNITS:
            dist.send(torch.zeros(1), dst=0)
    return wait.busy


if __name__ == "__main__":
    typer.run(main)
