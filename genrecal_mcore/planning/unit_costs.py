"""The mean costs of a unit, by kind of rank: what a table of a layout shows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from genrecal_mcore.data import BatchShape
from genrecal_mcore.planning.costs import Cost, Op, times, total
from genrecal_mcore.planning.student_costs import step_cost, unit_cost, unit_traffic
from genrecal_mcore.planning.teacher_costs import hidden_states_bytes
from genrecal_mcore.planning.timing import TimedLayout, features_bytes, stage_costs
from genrecal_mcore.planning.workload import UnitSize, Workload, units_of

MEAN_OF_UNITS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnCosts:
    """What one kind of rank computes and moves for a unit."""

    name: str
    serial: Cost
    """What it does one after the other."""
    beside: Cost = field(default_factory=dict)
    """What travels while it computes."""

    @property
    def cost(self) -> Cost:
        """Both."""
        return total(self.serial, self.beside)


def mean_unit_costs(timed: TimedLayout, workload: Workload) -> list[ColumnCosts]:
    """Return the teacher's stages, those as they are alike together, and the student ranks."""
    batch = BatchShape(
        micro_batch_size=timed.config.train.micro_batch_size, accumulation_steps=1, student_dp=MEAN_OF_UNITS
    )
    units = units_of(workload.draw(batch.samples_per_step, step=0), batch)
    columns = [] if timed.layout.teacher is None else _stage_columns(timed, units)
    traffic = unit_traffic(timed.side, dp=timed.layout.student.dp)
    computed = _mean([unit_cost(timed.side, unit) for unit in units])
    if timed.rates.hides_gathers:
        return [*columns, ColumnCosts(name="student", serial=computed, beside=traffic)]
    return [*columns, ColumnCosts(name="student", serial=total(computed, traffic))]


def step_column(timed: TimedLayout) -> ColumnCosts:
    """Return what a student rank does once a step."""
    return ColumnCosts(name="student, once a step", serial=step_cost(timed.side, dp=timed.layout.student.dp))


def _stage_columns(timed: TimedLayout, units: Sequence[UnitSize]) -> list[ColumnCosts]:
    mesh = timed.layout.teacher
    assert mesh is not None
    computed = _mean_of_stages([stage_costs(timed, unit) for unit in units])
    sent = _mean_of_stages([_sent(timed, unit) for unit in units])
    columns = []
    for (serial, beside), group in groupby(range(mesh.pp), key=lambda stage: (computed[stage], sent[stage])):
        stages = list(group)
        name = f"teacher stage {stages[0]}" + (f" to {stages[-1]}" if len(stages) > 1 else "")
        columns.append(ColumnCosts(name=name, serial=serial, beside=beside))
    return columns


def _sent(timed: TimedLayout, unit: UnitSize) -> list[Cost]:
    """Return what every stage sends on of a unit."""
    mesh, teacher = timed.layout.teacher, timed.models.teacher
    assert mesh is not None and teacher is not None
    hop: Cost = {Op.PIPELINE: hidden_states_bytes(teacher.shapes, mesh, unit.teacher)}
    features: Cost = {Op.FEATURES: features_bytes(timed, unit) / mesh.tp}
    return [hop] * (mesh.pp - 1) + [features]


def _mean_of_stages(by_unit: Sequence[Sequence[Cost]]) -> list[Cost]:
    return [_mean(costs) for costs in zip(*by_unit, strict=True)]


def _mean(costs: Sequence[Cost]) -> Cost:
    return times(total(*costs), 1 / len(costs))
