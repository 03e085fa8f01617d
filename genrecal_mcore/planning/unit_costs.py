"""The mean costs of a unit, by kind of rank: what a table of a layout shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from genrecal_mcore.data import BatchShape
from genrecal_mcore.planning.costs import Cost, Op, times, total
from genrecal_mcore.planning.student_costs import gathered_cost, step_cost, unit_cost
from genrecal_mcore.planning.teacher_costs import hidden_states_bytes
from genrecal_mcore.planning.timing import TimedLayout, features_bytes, stage_costs
from genrecal_mcore.planning.workload import UnitSize, Workload, units_of

MEAN_OF_UNITS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnCosts:
    """What one kind of rank computes and moves for a unit."""

    name: str
    cost: Cost


def mean_unit_costs(timed: TimedLayout, workload: Workload) -> list[ColumnCosts]:
    """Return the teacher's stages, those as they are alike together, and the student ranks."""
    batch = BatchShape(
        micro_batch_size=timed.config.train.micro_batch_size, accumulation_steps=1, student_dp=MEAN_OF_UNITS
    )
    units = units_of(workload.draw(batch.samples_per_step, step=0), batch)
    columns = [] if timed.layout.teacher is None else _stage_columns(timed, units)
    gathered = gathered_cost(timed.side, dp=timed.layout.student.dp)
    cost = total(_mean([unit_cost(timed.side, unit) for unit in units]), gathered)
    return [*columns, ColumnCosts(name="student", cost=cost)]


def step_column(timed: TimedLayout) -> ColumnCosts:
    """Return what a student rank does once a step."""
    return ColumnCosts(name="student, once a step", cost=step_cost(timed.side, dp=timed.layout.student.dp))


def _stage_columns(timed: TimedLayout, units: Sequence[UnitSize]) -> list[ColumnCosts]:
    mesh = timed.layout.teacher
    assert mesh is not None
    by_unit = [_with_links(timed, unit) for unit in units]
    costs = [_mean([stages[stage] for stages in by_unit]) for stage in range(mesh.pp)]
    columns = []
    for cost, group in groupby(range(mesh.pp), key=costs.__getitem__):
        stages = list(group)
        name = f"teacher stage {stages[0]}" + (f" to {stages[-1]}" if len(stages) > 1 else "")
        columns.append(ColumnCosts(name=name, cost=cost))
    return columns


def _with_links(timed: TimedLayout, unit: UnitSize) -> list[Cost]:
    """Return a unit's cost on every stage, with what the stage sends on."""
    mesh, teacher = timed.layout.teacher, timed.models.teacher
    assert mesh is not None and teacher is not None
    hop = {Op.PIPELINE: hidden_states_bytes(teacher.shapes, mesh, unit.teacher)}
    sent = [hop] * (mesh.pp - 1) + [{Op.FEATURES: features_bytes(timed, unit) / mesh.tp}]
    return [total(cost, link) for cost, link in zip(stage_costs(timed, unit), sent, strict=True)]


def _mean(costs: Sequence[Cost]) -> Cost:
    return times(total(*costs), 1 / len(costs))
