"""The student loop: one function, one step after another, the same for every stage and method."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch.distributed.fsdp import FSDPModule

from genrecal_mcore.config import RunConfig
from genrecal_mcore.parallel import seed_unit
from genrecal_mcore.status import Activity, RankStatus, Unit
from genrecal_mcore.training.checkpoint_writer import CheckpointWriter
from genrecal_mcore.training.ending import RunPreempted
from genrecal_mcore.training.features import FeatureSource
from genrecal_mcore.training.optimizer import learning_rate
from genrecal_mcore.training.recorder import StepRecord, StepRecorder
from genrecal_mcore.training.student_module import StudentModule
from genrecal_mcore.training.student_unit import StudentUnit
from genrecal_mcore.training.unit_sums import SUM_NAMES


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentRank:
    """What one student rank works with."""

    module: StudentModule
    """Under FSDP2 over the student group."""
    optimizer: torch.optim.AdamW
    units: Iterator[StudentUnit]
    features: FeatureSource | None
    """Where `units` take the teacher's features from; to be closed."""
    num_microbatches: Callable[[int], int]
    """Of a step: how many of `units` it takes."""
    recorder: StepRecorder
    save: Callable[[int], None]
    """Begins to write a checkpoint that says how many steps are done."""
    checkpoints: CheckpointWriter
    is_asked_to_stop: Callable[[], bool]
    """The same on all student ranks (collective)."""
    status: RankStatus
    student_rank: int


def run_student(rank: StudentRank, config: RunConfig, *, first_step: int) -> None:
    """Train from `first_step` to the last step; record each, save every so often and at the end.

    Raises `RunPreempted` when the run was asked to stop, `RuntimeError` when its result cannot be written.
    """
    for step in range(first_step, config.train.steps):
        started = time.perf_counter()
        lr = learning_rate(step, config.train)
        for group in rank.optimizer.param_groups:
            group["lr"] = lr

        sums, unit = accumulate_gradients(rank, config, step)
        rank.status.at("updates the weights, with all student ranks", Activity.OPTIMIZER)
        grad_norm = gradient_norm(rank.module)
        rank.optimizer.step()
        rank.optimizer.zero_grad(set_to_none=True)

        rank.status.at("records the step, with all student ranks")
        seconds = time.perf_counter() - started
        rank.recorder.record(
            StepRecord(step=step, lr=lr, sums=sums, unit=unit, grad_norm=grad_norm, seconds=seconds)
        )
        steps_done = step + 1
        is_last = steps_done == config.train.steps
        is_stopped = not is_last and rank.is_asked_to_stop()
        if is_last or is_stopped or steps_done % config.train.checkpoint_every_steps == 0:
            rank.status.at("copies a checkpoint, with all student ranks", Activity.CHECKPOINT)
            rank.save(steps_done)
        if is_stopped:
            leave_early(rank, steps_done)
    rank.status.at("writes the last checkpoint, with all student ranks", Activity.CHECKPOINT)
    if not rank.checkpoints.wait():
        raise RuntimeError(
            f"the last checkpoint could not be written to {config.run.dir}; make room and pass --resume"
        )


def leave_early(rank: StudentRank, steps_done: int) -> NoReturn:
    """Wait for the checkpoint and raise `RunPreempted`."""
    rank.status.at("writes a checkpoint before it stops, with all student ranks", Activity.CHECKPOINT)
    end = f"stopped as asked, {steps_done} steps are done"
    if not rank.checkpoints.wait():
        end += "; the checkpoint could not be written, the one before it stays the newest"
    raise RunPreempted(end)


def accumulate_gradients(rank: StudentRank, config: RunConfig, step: int) -> tuple[torch.Tensor, StudentUnit]:
    """Run the step's microbatches; return this rank's sums `[len(SUM_NAMES)]` and the last unit.

    Gradients are reduced over the student group with the last microbatch, or with each
    (`train.reduce_every_microbatch`).
    """
    sums = torch.zeros(len(SUM_NAMES), dtype=torch.float64, device=rank.recorder.device)
    last = rank.num_microbatches(step) - 1
    for microbatch in range(last + 1):
        at = Unit(step=step, microbatch=microbatch, student_rank=rank.student_rank)
        rank.status.at("prepares a unit", Activity.DATA, at)
        unit = next(rank.units)
        rank.status.at("computes, with all student ranks", Activity.COMPUTE)
        seed_unit(config.train.seed, step=step, microbatch=microbatch, student_rank=rank.student_rank)
        assert isinstance(rank.module, FSDPModule)
        rank.module.set_requires_gradient_sync(microbatch == last or config.train.reduce_every_microbatch)
        loss, unit_sums = rank.module(unit, diagnoses=config.train.diagnoses(step))
        loss.backward()
        sums += unit_sums
    return sums, unit


def gradient_norm(module: torch.nn.Module) -> torch.Tensor:
    """Return the 2-norm of the whole gradient over all ranks (collective over the student group)."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm
