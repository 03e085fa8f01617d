"""Loads what a run of stage 1 or 2 left, teacher and student in one process."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from genrecal_mcore.config import RunConfig, load_run_config
from genrecal_mcore.data import ModelProcessor, load_processors
from genrecal_mcore.models import (
    Recalibrator,
    TeacherStage,
    load_student,
    load_teacher_head,
    load_teacher_stage,
    use_packed_attention,
)
from genrecal_mcore.parallel import MeshSpec, create_mesh_groups
from genrecal_mcore.training.answer_inputs import AnswerInputs, answer_inputs_of
from genrecal_mcore.training.checkpoint import read_run_state
from genrecal_mcore.training.joining import choose_device, start_process_group
from genrecal_mcore.training.student_assembly import (
    apply_result,
    recalibrator_before_stage,
    recalibrator_of,
    result_of,
    student_before_stage,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunModels:
    """The three networks as a run left them, frozen, on one device."""

    config: RunConfig
    step: int
    """Steps done at the checkpoint."""
    teacher: TeacherStage
    head: torch.Tensor
    """`[v, h_t]`."""
    student: PreTrainedModel
    recalibrator: Recalibrator
    answers: AnswerInputs | None
    processors: Mapping[str, ModelProcessor]
    device: torch.device

    @property
    def loss_memory_bytes(self) -> int:
        """Of the losses through a head."""
        return self.config.loss.memory_budget_mib * 2**20


def config_of_run(run_dir: Path) -> RunConfig:
    """Return a run's configuration; raises `ValueError` when it is no run, or one without a Recalibrator."""
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise ValueError(f"{run_dir} is not a run folder: {path} does not exist")
    config = load_run_config(path)
    if not config.has_recalibrator:
        raise ValueError(
            f"{run_dir} is a run of method {config.method}, stage {config.stage}, which has no Recalibrator; "
            "name a run of method genrecal, stage 1 or 2"
        )
    return config


@contextmanager
def run_models(run_dir: Path, config: RunConfig, *, step: int | None = None) -> Iterator[RunModels]:
    """Load a run's newest checkpoint, or the one after `step` steps, or at step 0 what the run began with.

    The teacher, on one rank, must fit beside the rest. Raises `ValueError` for a run without that checkpoint.
    """
    assert config.teacher is not None
    steps_done = 0 if step == 0 else read_run_state(result_of(run_dir, step=step)).step
    device = choose_device(config)
    owns_group = start_process_group(config, rank=0, world_size=1, device=device)
    try:
        mesh = MeshSpec(name="teacher")
        groups = create_mesh_groups(mesh, rank=0)
        teacher = load_teacher_stage(config.teacher.checkpoint, mesh, groups, device=device)
        head = load_teacher_head(config.teacher.checkpoint, device=device)
        student = student_at(run_dir, config, step=step)
        recalibrator = recalibrator_at(run_dir, config, student, head, step=step)
        yield RunModels(
            config=config,
            step=steps_done,
            teacher=teacher,
            head=head,
            student=student.to(device).eval(),
            recalibrator=recalibrator.to(device, student.dtype).eval(),
            answers=answer_inputs_of(config, with_questions=True),
            processors={role: p for role, p in load_processors(config).items() if p is not None},
            device=device,
        )
    finally:
        if owns_group:
            dist.destroy_process_group()


def student_at(run_dir: Path, config: RunConfig, *, step: int | None) -> PreTrainedModel:
    """Return the student as it was at a step of a run, adapters merged."""
    if step == 0:
        student = student_before_stage(config)
    else:
        student = load_student(config.student.checkpoint, dtype=getattr(torch, config.train.dtype))
        apply_result(student, run_dir, step=step)
    use_packed_attention(student.model.language_model.config)
    return student


def recalibrator_at(
    run_dir: Path, config: RunConfig, student: PreTrainedModel, head: torch.Tensor, *, step: int | None
) -> Recalibrator:
    """Return the Recalibrator as it was at a step of a run; `head` is `[v, h_t]`."""
    size = head.shape[1]
    if step == 0:
        return recalibrator_before_stage(config, student, teacher_hidden_size=size)
    return recalibrator_of(run_dir, config, student, teacher_hidden_size=size, step=step)
