"""Times the student side as it trains: sharded by FSDP over this one rank, and the update of a step."""

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule

from genrecal_mcore.config import RunConfig
from genrecal_mcore.models import Recalibrator, initialise_recalibrator, load_student, load_teacher_head
from genrecal_mcore.planning.costs import Op
from genrecal_mcore.planning.student_costs import StudentSide, step_cost, unit_cost
from genrecal_mcore.profiling.stopwatch import Stopwatch
from genrecal_mcore.profiling.units import ProfiledUnit, text_size, text_unit
from genrecal_mcore.training.optimizer import build_optimizer
from genrecal_mcore.training.stages import stage_of
from genrecal_mcore.training.student_assembly import assemble_student_module, shard_, trainable_parameters
from genrecal_mcore.training.student_loop import gradient_norm
from genrecal_mcore.training.student_module import StudentModule


def student_of(config: RunConfig, *, device: torch.device) -> StudentModule:
    """Return the module of a run as from its files, whatever run it is to start from."""
    student = load_student(config.student.checkpoint, dtype=getattr(torch, config.train.dtype))
    recalibrator = head = None
    stage = stage_of(config)
    if stage.has_teacher:
        assert config.teacher is not None
        head = load_teacher_head(config.teacher.checkpoint, device=device)
    if stage.has_recalibrator:
        assert head is not None
        text = student.config.get_text_config()
        recalibrator = Recalibrator(
            text, teacher_hidden_size=head.shape[1], num_layers=config.recalibrator.num_layers
        )
        initialise_recalibrator(recalibrator, std=text.initializer_range, seed=config.train.seed)
    return assemble_student_module(config, student, recalibrator, head).to(device)


def sharded_seconds(
    module: StudentModule, config: RunConfig, unit: ProfiledUnit, watch: Stopwatch
) -> tuple[float, float]:
    """Return the time of a unit under FSDP over this rank alone, and that of a step's update."""
    for parameter in trainable_parameters(module):
        parameter.data = parameter.data.float()
    assert dist.group.WORLD is not None
    sharded = shard_(module, config, dist.group.WORLD)
    own_answers = config.recalibrator.student_answers
    example = text_unit(module, unit.lengths, answer_tokens=unit.answer_tokens, own_answers=own_answers)
    assert isinstance(sharded, FSDPModule)

    def run() -> None:
        loss, _ = sharded(example)
        loss.backward()

    sharded.set_requires_gradient_sync(not config.keeps_whole_gradients)
    seconds = watch.seconds(run)
    sharded.set_requires_gradient_sync(True)
    run()
    optimizer = build_optimizer(trainable_parameters(sharded), config.train)

    def update() -> None:
        gradient_norm(sharded)
        optimizer.step()

    return seconds, watch.seconds(update)


def rest_seconds(
    side: StudentSide, unit: ProfiledUnit, *, unit_seconds: float, parts: dict[Op, float]
) -> dict[Op, float]:
    """Return what a unit takes beside its parts: FSDP's copies, calls, and what no part is."""
    cost = unit_cost(side, text_size(unit.lengths, answer_tokens=unit.answer_tokens))
    known = sum(amount * parts.get(op, 0.0) for op, amount in cost.items())
    return {Op.STUDENT_UNIT_CALLS: max(0.0, unit_seconds - known)}


def update_seconds(side: StudentSide, seconds: float) -> dict[Op, float]:
    """Return the seconds of a byte that an update moves."""
    return {Op.OPTIMIZER: seconds / step_cost(side, dp=1)[Op.OPTIMIZER]}
