"""Simulates a run's ranks on a clock: what every unit of work waits for, as the loops of `training` do it.

Teacher stages stream units and never flush; the channel is bounded at both ends; student ranks keep step at
every unit, because FSDP gathers weights from all of them. How long each piece takes is given, see `timing`.
"""

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass

from genrecal_mcore.parallel import MeshSpec
from genrecal_mcore.planning.engine import Compute, Engine, Process, Signal, Spent, Times
from genrecal_mcore.planning.rendezvous import Barrier, Link, Message
from genrecal_mcore.training.ahead import begun_ahead
from genrecal_mcore.training.pipeline import MAX_SENDS_IN_FLIGHT, RECEIVES_AHEAD
from genrecal_mcore.transfer import RoutePlan, Unit, units_of_replica, units_of_student


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitSeconds:
    """What one unit takes, piece by piece, alone on its devices."""

    student: float
    """Forward and backward on the student rank."""
    stages: tuple[float, ...] = ()
    """Each pipeline stage of the teacher; empty without one."""
    decoding: float = 0.0
    """The first of them loads the samples with their images."""
    rendering: float = 0.0
    """The others load them without."""
    hop: float = 0.0
    """Hidden states to the next stage."""
    transfer: float = 0.0
    """Features to the student rank."""
    loading: float = 0.0
    """The student rank loads its own batch, and the teacher's tokens so as to know what will come."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedRun:
    """What is simulated."""

    plan: RoutePlan
    teacher: MeshSpec | None
    """None where no teacher takes part; the plan's replicas then do nothing."""
    prefetch: int
    num_steps: int
    seconds_of: Callable[[Unit], UnitSeconds]
    step_end: float
    """Seconds after a step's last unit: gradients reduced, weights updated."""
    cores: int | None = None
    """Cores that all ranks share; None where each has a device of its own."""
    crowded_pace: float = 1.0
    """See `engine.Engine`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepEnd:
    """The clock, and everybody's times so far, when a step has ended."""

    now: float
    stages: dict[tuple[int, int], Times]
    """By replica and pipeline stage."""
    students: tuple[Times, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Simulated:
    """What happened."""

    ends: tuple[StepEnd, ...]
    unit_starts: dict[Unit, float]
    """When a student rank began to compute each unit, in that order."""


def simulate(run: SimulatedRun) -> Simulated:
    """Run all ranks from the first step to the last."""
    scene = _Scene(run)
    if run.teacher is not None:
        for replica in range(run.teacher.dp):
            scene.start_replica(run.teacher, replica)
    scene.students = [scene.engine.start(scene.student_rank(rank)) for rank in range(run.plan.student_dp)]
    scene.engine.run()
    assert len(scene.ends) == run.num_steps, "a simulated rank waits for what never comes"
    return Simulated(ends=tuple(scene.ends), unit_starts=scene.unit_starts)


Messages = defaultdict[Unit, Message]


class _Scene:
    """The ranks of a run as processes, and what lies between them."""

    def __init__(self, run: SimulatedRun) -> None:
        self.run = run
        self.engine = Engine(run.cores, crowded_pace=run.crowded_pace)
        self.features: Messages = defaultdict(Message)
        """From the teacher's last stages to the student ranks."""
        self.ingress = [Link() for _ in range(run.plan.student_dp)]
        self.barrier = Barrier(run.plan.student_dp)
        self.stages: dict[tuple[int, int], Times] = {}
        self.students: list[Times] = []
        self.ends: list[StepEnd] = []
        self.unit_starts: dict[Unit, float] = {}

    def start_replica(self, mesh: MeshSpec, replica: int) -> None:
        """Let the stages of a teacher replica begin, each fed by the one before."""
        source = self.features
        for stage in range(mesh.pp):
            target = self.features if stage == mesh.pp - 1 else defaultdict(Message)
            process = self.teacher_stage(replica, stage=stage, source=source, target=target)
            self.stages[replica, stage] = self.engine.start(process)
            source = target

    def teacher_stage(self, replica: int, *, stage: int, source: Messages, target: Messages) -> Process:
        """Mirror `training.teacher_loop.run_teacher` for the tp ranks of a stage, which keep step."""
        run, mesh = self.run, self.run.teacher
        assert mesh is not None
        is_first, is_last = stage == 0, stage == mesh.pp - 1
        limit = run.prefetch if is_last else MAX_SENDS_IN_FLIGHT
        in_flight: deque[Signal] = deque()
        egress = Link()
        begun: list[Unit] = []
        planned = units_of_replica(replica, run.plan, 0, run.num_steps)
        for unit, _ in begun_ahead(planned, begun.append, depth=0 if is_first else RECEIVES_AHEAD):
            for other in begun:
                seconds = run.seconds_of(other)
                loading = seconds.decoding if is_first else seconds.rendering
                yield Compute(loading, mesh.tp), Spent.COMPUTING
                if not is_first:
                    source[other].ask(self.engine)
            begun.clear()
            if not is_first:
                yield source[unit].arrived, Spent.STARVED
                del source[unit]
            seconds = run.seconds_of(unit)
            yield Compute(seconds.stages[stage], mesh.tp), Spent.COMPUTING
            while len(in_flight) >= limit:
                yield in_flight.popleft(), Spent.BLOCKED
            links = (egress, self.ingress[unit.student_rank]) if is_last else (egress,)
            duration = seconds.transfer if is_last else seconds.hop
            target[unit].offer(self.engine, seconds=duration, links=links)
            in_flight.append(target[unit].arrived)

    def student_rank(self, rank: int) -> Process:
        """Mirror `training.student_feed` and `training.student_loop`."""
        run = self.run
        begun: list[Unit] = []
        planned = units_of_student(
            rank, num_microbatches=run.plan.num_microbatches, first_step=0, last_step=run.num_steps
        )
        for unit, _ in begun_ahead(planned, begun.append, depth=run.prefetch):
            for other in begun:
                yield Compute(run.seconds_of(other).loading), Spent.COMPUTING
                if run.teacher is not None:
                    self.features[other].ask(self.engine)
            begun.clear()
            yield from self.train_on(unit)

    def train_on(self, unit: Unit) -> Process:
        """Wait for a unit's features, compute it with all ranks; the last of a step ends it."""
        run, engine = self.run, self.engine
        if run.teacher is not None:
            yield self.features[unit].arrived, Spent.STARVED
            del self.features[unit]
        # FSDP gathers the first weights from all: a peer that has no features yet starves everybody.
        yield self.barrier.arrive(engine), Spent.STARVED
        self.unit_starts[unit] = engine.now
        yield Compute(run.seconds_of(unit).student), Spent.COMPUTING
        yield self.barrier.arrive(engine), Spent.APART
        if unit.microbatch == run.plan.num_microbatches(unit.step) - 1:
            yield Compute(run.step_end), Spent.COMPUTING
            yield self.barrier.arrive(engine), Spent.APART
            if unit.student_rank == 0:
                self.end_step()

    def end_step(self) -> None:
        """Note the clock and everybody's times."""
        self.engine.settle()
        stages = {key: dict(times) for key, times in self.stages.items()}
        students = tuple(dict(times) for times in self.students)
        self.ends.append(StepEnd(now=self.engine.now, stages=stages, students=students))
