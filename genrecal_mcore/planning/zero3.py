"""What the paper's engine would take by the same model: both models sharded over all GPUs by ZeRO-3.

Every rank runs the teacher and then the student for each of its microbatches, and gathers the weights of both
each time. Granted generously: gathers run beside the computation without slowing it down, on links that reach
their assumed share; no rank waits for another. The row without overlap grants the links alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from genrecal_mcore.data import BatchShape
from genrecal_mcore.parallel import Layout, MeshSpec
from genrecal_mcore.planning.candidates import Search
from genrecal_mcore.planning.costs import Cost, Op, flops_of, total
from genrecal_mcore.planning.counted import CountedModels
from genrecal_mcore.planning.sizes import teacher_body_parameters
from genrecal_mcore.planning.student_costs import (
    StudentSide,
    gathered_cost,
    step_cost,
    student_side,
    unit_cost,
)
from genrecal_mcore.planning.teacher_costs import stage_cost
from genrecal_mcore.planning.workload import UnitSize, units_of

MICRO_BATCH_SIZE, ACCUMULATION_STEPS = 2, 16
"""Of the paper's second stage, section 4.1(c)."""
PAPER = (
    "The paper took 5 to 7 days for stages 1 and 2 together, over 9M samples, and 4 to 6 for stage 3, on 256 "
    "A100-80GB with DeepSpeed ZeRO-3 (section 4.1(c))."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Zero3:
    """A ZeRO-3 job over as many GPUs."""

    unit_flops: float
    unit_gathered_bytes: float
    samples_per_step: int
    step_seconds: float
    """With gathers hidden behind the computation."""
    step_seconds_apart: float
    """With gathers before the computation that needs them."""

    def days(self, samples: int) -> tuple[float, float]:
        """Return the days that so many samples take, with overlap and without."""
        steps = samples / self.samples_per_step / 86400
        return steps * self.step_seconds, steps * self.step_seconds_apart


def zero3(search: Search) -> Zero3 | None:
    """Return what ZeRO-3 costs on the GPUs of a search; None for a stage without a teacher."""
    if search.models.teacher is None:
        return None
    dp = search.num_gpus
    rates = search.rates_of(Layout(teacher=None, student=MeshSpec(name="student", dp=dp)))
    side = _side(search)
    units = _units(search)
    computing = [total(*_unit_costs(search.models, side, unit)) for unit in units]
    gathering = total(gathered_cost(side, dp=dp), teacher_gathers(search.models, dp=dp))
    seconds, apart = fmean(rates.seconds(cost) for cost in computing), rates.seconds(gathering)
    end = rates.seconds(step_cost(side, dp=dp))
    return Zero3(
        unit_flops=fmean(flops_of(cost) for cost in computing),
        unit_gathered_bytes=gathering[Op.GATHERS],
        samples_per_step=dp * MICRO_BATCH_SIZE * ACCUMULATION_STEPS,
        step_seconds=ACCUMULATION_STEPS * max(seconds, apart) + end,
        step_seconds_apart=ACCUMULATION_STEPS * (seconds + apart) + end,
    )


def teacher_gathers(models: CountedModels, *, dp: int) -> Cost:
    """Return what a rank receives of the teacher's weights a microbatch: body, vision side and head, once."""
    teacher = models.teacher
    assert teacher is not None
    body = teacher_body_parameters(teacher.language, MeshSpec(name="teacher"), stage=0)
    whole = (body + teacher.vision_parameters) * teacher.shapes.element_size + teacher.head_bytes
    return {Op.GATHERS: (dp - 1) / dp * whole}


def _side(search: Search) -> StudentSide:
    """Return the student's side: every layer computed again, gradients reduced once a step."""
    side = student_side(search.config, search.models)
    num_layers = side.shapes.body.num_layers if side.learns else 0
    return replace(side, checkpointed_layers=num_layers, reduces_each=False)


def _unit_costs(models: CountedModels, side: StudentSide, unit: UnitSize) -> Sequence[Cost]:
    assert models.teacher is not None
    alone = MeshSpec(name="teacher")
    return stage_cost(models.teacher.shapes, alone, unit.teacher, stage=0), unit_cost(side, unit)


def _units(search: Search) -> list[UnitSize]:
    batch = BatchShape(micro_batch_size=MICRO_BATCH_SIZE, accumulation_steps=1, student_dp=32)
    return units_of(search.workload.draw(batch.samples_per_step, step=0), batch)
