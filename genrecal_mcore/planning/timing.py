"""How long a layout takes: costs of its units at given rates, put on the simulation's clock."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from genrecal_mcore.config import RunConfig
from genrecal_mcore.data import batch_shape
from genrecal_mcore.parallel import Layout
from genrecal_mcore.planning.costs import Cost, Op
from genrecal_mcore.planning.counted import CountedModels
from genrecal_mcore.planning.engine import Spent
from genrecal_mcore.planning.rates import Rates
from genrecal_mcore.planning.simulation import Simulated, SimulatedRun, UnitSeconds, simulate
from genrecal_mcore.planning.student_costs import (
    StudentSide,
    step_cost,
    student_side,
    unit_cost,
    unit_traffic,
)
from genrecal_mcore.planning.teacher_costs import hidden_states_bytes, payload_rows_of, stage_cost
from genrecal_mcore.planning.workload import PairedSize, UnitSize, Workload, units_of
from genrecal_mcore.transfer import RoutePlan, Unit

SIMULATED_STEPS = 3
"""The first fills pipeline and channel, and in the last the teacher has no next one to go on with."""

MOST_SIMULATED_MICROBATCHES = 12

SamplesOfStep = Callable[[int], Sequence[PairedSize]]
"""Sizes of a step's samples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimedLayout:
    """What the time of a run depends on."""

    config: RunConfig
    layout: Layout
    models: CountedModels
    side: StudentSide
    rates: Rates
    traffic: float
    """Seconds of FSDP's traffic with one unit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What a run's steps are like."""

    step_seconds: float
    samples_per_step: int
    occupancy: tuple[float, ...]
    """Share of the time in which each pipeline stage computes, mean over the replicas."""
    student_waits: float
    """Share of the time in which student ranks wait for features, mean over the ranks."""
    student_apart: float
    """Share in which they wait for each other."""

    @property
    def samples_per_s(self) -> float:
        """Samples a second of the whole job."""
        return self.samples_per_step / self.step_seconds

    @property
    def teacher_waits(self) -> float:
        """Share of the time in which teacher ranks wait for anybody, mean over the stages."""
        return max(0.0, 1.0 - fmean(self.occupancy)) if self.occupancy else 0.0

    def days(self, samples: int) -> float:
        """Return the days that so many samples take."""
        return samples / self.samples_per_s / 86400


def timed_layout(config: RunConfig, layout: Layout, models: CountedModels, rates: Rates) -> TimedLayout:
    """Return a layout of a run, ready to be timed."""
    side = student_side(config, models)
    traffic = rates.seconds(unit_traffic(side, dp=layout.student.dp))
    return TimedLayout(config=config, layout=layout, models=models, side=side, rates=rates, traffic=traffic)


def predict(timed: TimedLayout, samples_of_step: SamplesOfStep) -> Prediction:
    """Simulate a few steps and return what the second is like."""
    simulated = simulate(simulated_run(timed, samples_of_step))
    before, after = simulated.ends[0], simulated.ends[1]
    seconds = after.now - before.now
    students = range(timed.layout.student.dp)

    def student_share(spent: Spent) -> float:
        return fmean(after.students[i][spent] - before.students[i][spent] for i in students) / seconds

    return Prediction(
        step_seconds=seconds,
        samples_per_step=batch_shape(timed.config).samples_per_step,
        occupancy=stage_occupancy(timed, simulated),
        student_waits=student_share(Spent.STARVED),
        student_apart=student_share(Spent.APART),
    )


def predict_workload(timed: TimedLayout, workload: Workload) -> Prediction:
    """Return what a step is like over drawn samples.

    Only so many microbatches of a step are simulated; the rest take as long on average.
    """
    train = timed.config.train
    fewer = min(train.accumulation_steps, MOST_SIMULATED_MICROBATCHES)
    config = timed.config.model_copy(update={"train": train.model_copy(update={"accumulation_steps": fewer})})
    num_samples = batch_shape(config).samples_per_step
    short = predict(replace(timed, config=config), lambda step: workload.draw(num_samples, step=step))
    end = timed.rates.seconds(step_cost(timed.side, dp=timed.layout.student.dp))
    stretched = (short.step_seconds - end) * train.accumulation_steps / fewer + end
    return replace(short, step_seconds=stretched, samples_per_step=batch_shape(timed.config).samples_per_step)


def stage_occupancy(timed: TimedLayout, simulated: Simulated) -> tuple[float, ...]:
    """Return the share of the second step that each pipeline stage computes, mean over the replicas."""
    mesh = timed.layout.teacher
    if mesh is None:
        return ()
    before, after = simulated.ends[0], simulated.ends[1]

    def computing(replica: int, stage: int) -> float:
        key = replica, stage
        return after.stages[key][Spent.COMPUTING] - before.stages[key][Spent.COMPUTING]

    seconds = after.now - before.now
    return tuple(
        fmean(computing(replica, stage) for replica in range(mesh.dp)) / seconds for stage in range(mesh.pp)
    )


def simulated_run(
    timed: TimedLayout, samples_of_step: SamplesOfStep, *, num_steps: int = SIMULATED_STEPS
) -> SimulatedRun:
    """Return the run of a layout over samples of given sizes."""
    batch, teacher = batch_shape(timed.config), timed.layout.teacher
    steps = [units_of(samples_of_step(step), batch) for step in range(num_steps)]
    varies = batch.unit_tokens is not None
    seconds = [[unit_seconds(timed, size) for size in units] for units in steps]

    def seconds_of(unit: Unit) -> UnitSeconds:
        return seconds[unit.step][unit.microbatch * batch.student_dp + unit.student_rank]

    return SimulatedRun(
        plan=RoutePlan(
            accumulation_steps=batch.accumulation_steps,
            microbatches_of=(lambda step: len(steps[step]) // batch.student_dp) if varies else None,
            student_dp=batch.student_dp,
            teacher_dp=teacher.dp if teacher else 1,
        ),
        teacher=teacher,
        prefetch=timed.config.transfer.prefetch,
        num_steps=num_steps,
        seconds_of=seconds_of,
        step_end=timed.rates.seconds(step_cost(timed.side, dp=batch.student_dp)),
        cores=timed.rates.cores,
        crowded_pace=timed.rates.crowded_pace,
    )


def unit_seconds(timed: TimedLayout, size: UnitSize) -> UnitSeconds:
    """Return what one unit takes, piece by piece."""
    rates, mesh, teacher = timed.rates, timed.layout.teacher, timed.models.teacher
    student = student_seconds(timed, unit_cost(timed.side, size))
    if mesh is None or teacher is None:
        return UnitSeconds(student=student, loading=loading_seconds(timed, size, Op.STUDENT_LOADING))
    rendering = loading_seconds(timed, size, Op.RENDERING)
    return UnitSeconds(
        student=student,
        loading=loading_seconds(timed, size, Op.STUDENT_LOADING) + rendering,
        stages=tuple(rates.seconds(cost) for cost in stage_costs(timed, size)),
        decoding=loading_seconds(timed, size, Op.TEACHER_LOADING),
        rendering=rendering,
        hop=rates.seconds({Op.PIPELINE: hidden_states_bytes(teacher.shapes, mesh, size.teacher)}),
        transfer=rates.seconds({Op.FEATURES: features_bytes(timed, size)}),
    )


def loading_seconds(timed: TimedLayout, size: UnitSize, op: Op) -> float:
    """Return the time in which a rank loads a unit; none where other processes do it ahead."""
    return 0.0 if timed.config.data.num_workers else timed.rates.seconds({op: len(size.samples)})


def stage_costs(timed: TimedLayout, size: UnitSize) -> list[Cost]:
    """Return the cost of a unit on every pipeline stage; stages of as many layers share one."""
    mesh, teacher = timed.layout.teacher, timed.models.teacher
    assert mesh is not None and teacher is not None
    costs: dict[tuple[bool, int], Cost] = {}
    keys = []
    for stage in range(mesh.pp):
        keys.append((stage == 0, len(mesh.layers_of_stage(stage, num_layers=teacher.shapes.body.num_layers))))
        if keys[-1] not in costs:
            costs[keys[-1]] = stage_cost(teacher.shapes, mesh, size.teacher, stage=stage)
    return [costs[key] for key in keys]


def features_bytes(timed: TimedLayout, size: UnitSize) -> int:
    """Return the bytes of the rows that travel to the student rank."""
    teacher = timed.models.teacher
    assert teacher is not None
    rows = payload_rows_of(size.teacher, with_questions=timed.side.stage.with_questions)
    return rows * teacher.language.hidden_size * teacher.shapes.element_size


def student_seconds(timed: TimedLayout, cost: Cost) -> float:
    """Return the time of a unit on a student rank: what it computes, and FSDP's traffic."""
    computing = timed.rates.seconds(cost)
    return max(computing, timed.traffic) if timed.rates.hides_gathers else computing + timed.traffic
