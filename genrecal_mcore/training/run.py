"""Runs one stage on this rank: set up the job, take a role, train, leave.

`train` is what `genrecal train` calls under torchrun, once on every rank.
"""

import logging
from pathlib import Path

import torch

from genrecal_mcore.config import RunConfig
from genrecal_mcore.data import UnitLoader, sample_order
from genrecal_mcore.models import load_teacher_stage
from genrecal_mcore.training.answer_inputs import answer_inputs_of
from genrecal_mcore.training.channels import feature_sender, feature_source
from genrecal_mcore.training.checkpoint import (
    InputDigests,
    RunState,
    allocate_optimizer_state,
    input_digests,
    load_checkpoint,
    read_run_state,
    trainable_state,
)
from genrecal_mcore.training.checkpoint_writer import CheckpointWriter
from genrecal_mcore.training.features import FeatureSource
from genrecal_mcore.training.job import Job, check_inputs, check_run_dir, set_up_job
from genrecal_mcore.training.joining import joined_job, layout_of_job
from genrecal_mcore.training.optimizer import build_optimizer
from genrecal_mcore.training.pipeline import PipelineLink
from genrecal_mcore.training.recorder import StepRecorder
from genrecal_mcore.training.student_assembly import (
    build_student_module,
    log_parameters,
    shard_,
    trainable_parameters,
)
from genrecal_mcore.training.student_feed import StepTokens, StudentFeed
from genrecal_mcore.training.student_loop import StudentRank, run_student
from genrecal_mcore.training.student_module import StudentModule
from genrecal_mcore.training.teacher_loop import TeacherRank, run_teacher

logger = logging.getLogger(__name__)


def train(config: RunConfig, *, resume: bool, stop_file: Path | None = None) -> None:
    """Train one stage as one rank of the job that torchrun (or a single process) started.

    As soon as `stop_file` exists the run ends after the step in work, with a checkpoint, and `RunPreempted`
    is raised. Raises `ValueError` for a configuration that cannot work and `RuntimeError` for a run that
    broke; nothing is written before the configuration has passed.
    """
    layout = layout_of_job(config)
    check_inputs(config, layout)
    check_run_dir(config, resume=resume)
    with joined_job(config, layout, stop_file) as setup:
        job = set_up_job(config, layout, setup, resume=resume)
        if job.topology.is_teacher:
            run_teacher_rank(job)
        else:
            run_student_rank(job)


def run_teacher_rank(job: Job) -> None:
    """Load this rank's stage of the teacher and stream every unit that its replica serves."""
    config, topology = job.config, job.topology
    mesh = topology.layout.teacher
    assert mesh is not None and config.teacher is not None and topology.teacher_groups is not None
    at = mesh.coordinate_of(topology.rank)
    with job.loader(job.units_of_replica(at.dp), job.view("teacher", with_pixels=at.pp == 0)) as loader:
        job.status.at("loads the teacher")
        teacher = load_teacher_stage(
            config.teacher.checkpoint, mesh, topology.teacher_groups, device=topology.device
        )
        dtype = teacher.body.config.params_dtype
        rank = TeacherRank(
            teacher=teacher,
            load=loader.load,
            link=PipelineLink(topology, dtype=dtype, timeout_s=config.transfer.timeout_s, status=job.status),
            sender=feature_sender(job) if teacher.is_last_stage else None,
            stage=job.stage,
            device=topology.device,
            status=job.status,
        )
        run_teacher(rank, job.units_of_replica(at.dp))


def run_student_rank(job: Job) -> None:
    """Build the student side, go on from a checkpoint if there is one, and run the student loop."""
    with student_loader(job) as loader:
        rank = build_student_rank(job, loader)
        try:
            run_student(rank, job.config, first_step=job.first_step)
        finally:
            rank.recorder.close()
            rank.checkpoints.close()
            if rank.features is not None:
                rank.features.close()


def student_loader(job: Job) -> UnitLoader:
    """Return the loader of this student rank's units: with pixels, and in the teacher's tokens without."""
    views = [job.view("student", with_pixels=True)]
    if job.stage.has_teacher:
        views.append(job.view("teacher", with_pixels=False))
    return job.loader(job.units_of_student(), *views)


def build_student_rank(job: Job, loader: UnitLoader) -> StudentRank:
    """Return everything that the student loop works with, at the job's first step (collective)."""
    config, group = job.config, job.topology.student_group
    assert group is not None and job.topology.checkpoint_group is not None
    job.status.at("loads the student")
    module = build_student_module(config, device=job.topology.device)
    log_parameters(module, job.stage)
    features = feature_source(job)
    feed = student_feed(job, loader, features)
    shard_(module, config, group)
    optimizer = build_optimizer(trainable_parameters(module), config.train)
    digests = input_digests(config)
    writer = CheckpointWriter(
        config.run.dir, group=job.topology.checkpoint_group, keep=config.train.keep_checkpoints
    )
    if job.checkpoint is not None:
        resume_from(job, module, optimizer, run_state(job, digests, job.first_step))
    return StudentRank(
        module=module,
        optimizer=optimizer,
        units=feed.units(job.units_of_student(), prefetch=config.transfer.prefetch),
        features=features,
        num_microbatches=job.num_microbatches,
        recorder=step_recorder(job, feed),
        save=lambda steps_done: writer.save(
            run_state(job, digests, steps_done), trainable_state(module, optimizer)
        ),
        checkpoints=writer,
        is_asked_to_stop=lambda: job.stop.all_reduce_is_made(group, job.topology.device),
        status=job.status,
        student_rank=group.rank(),
    )


def step_recorder(job: Job, feed: StudentFeed) -> StepRecorder:
    """Return the recorder of this rank's steps; the first student rank's writes `metrics.jsonl`."""
    group = job.topology.student_group
    assert group is not None
    recorder = StepRecorder(
        group,
        job.stage,
        samples_per_step=job.batch.samples_per_step,
        waits=lambda: feed.waits,
        seconds=job.status.seconds,
        device=job.topology.device,
    )
    if group.rank() == 0:
        recorder.write_to(job.config, first_step=job.first_step)
    return recorder


def student_feed(job: Job, loader: UnitLoader, features: FeatureSource | None) -> StudentFeed:
    """Return the source of this rank's units."""
    answers = None
    if features is not None:
        answers = answer_inputs_of(job.config, with_questions=job.stage.with_questions)
    tokens = StepTokens(index=job.index, order=job.order, batch=job.batch)
    return StudentFeed(
        loader.load,
        features,
        answers=answers,
        counts_of_step=tokens.of_step,
        device=job.topology.device,
    )


def run_state(job: Job, digests: InputDigests, steps_done: int) -> RunState:
    """Return what identifies the run's position and its inputs."""
    return RunState(
        step=steps_done,
        samples=steps_done * job.batch.samples_per_step,
        seed=job.config.train.seed,
        data_digest=sample_order(job.config, job.index).identity,
        student_digest=digests.student,
        teacher_digest=digests.teacher,
    )


def resume_from(
    job: Job, module: StudentModule, optimizer: torch.optim.Optimizer, expected: RunState
) -> None:
    """Read tensors and optimizer state of the job's checkpoint; raises `ValueError` when its inputs were
    others.
    """
    assert job.checkpoint is not None and job.topology.student_group is not None
    found = read_run_state(job.checkpoint)
    for field in ("samples", "seed", "data_digest", "student_digest", "teacher_digest"):
        if getattr(found, field) != getattr(expected, field):
            raise ValueError(
                f"{job.checkpoint} was written with {field} {getattr(found, field)}, but this run has "
                f"{getattr(expected, field)}; resume with the configuration and files that the run began with"
            )
    allocate_optimizer_state(optimizer)
    load_checkpoint(job.checkpoint, trainable_state(module, optimizer), group=job.topology.student_group)
    logger.info("resumed at step %d from %s", found.step, job.checkpoint)
