"""Runs one stage on this rank: set up the job, take a role, train, leave.

`train` is what `genrecal train` calls under torchrun, once on every rank.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from genrecal_mcore.config import RunConfig
from genrecal_mcore.data import UnitLoader, start_worker_server
from genrecal_mcore.models import load_teacher_stage
from genrecal_mcore.parallel import layout_of
from genrecal_mcore.training.answer_inputs import answer_inputs_of
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
from genrecal_mcore.training.ending import StopRequest, recorded_end
from genrecal_mcore.training.job import (
    Job,
    RankSetup,
    check_inputs,
    check_run_dir,
    choose_device,
    set_up_job,
    set_up_run_dir,
    start_process_group,
)
from genrecal_mcore.training.optimizer import build_optimizer
from genrecal_mcore.training.pipeline import PipelineLink
from genrecal_mcore.training.recorder import StepRecorder
from genrecal_mcore.training.student_assembly import (
    build_student_module,
    log_parameters,
    shard_,
    trainable_parameters,
)
from genrecal_mcore.training.student_feed import StepTokens, StudentFeed, TeacherSide
from genrecal_mcore.training.student_loop import StudentRank, run_student
from genrecal_mcore.training.student_module import StudentModule
from genrecal_mcore.training.teacher_loop import TeacherRank, run_teacher
from genrecal_mcore.transfer import (
    Edge,
    FeatureReceiver,
    FeatureSender,
    RoutePlan,
    Unit,
    units_of_replica,
    units_of_student,
)

logger = logging.getLogger(__name__)


def train(config: RunConfig, *, resume: bool, stop_file: Path | None = None) -> None:
    """Train one stage as one rank of the job that torchrun (or a single process) started.

    As soon as `stop_file` exists the run ends after the step in work, with a checkpoint, and `RunPreempted`
    is raised. Raises `ValueError` for a configuration that cannot work and `RuntimeError` for a run that
    broke; nothing is written before the configuration has passed.
    """
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    layout = layout_of(config.mesh, world_size=world_size)
    check_inputs(config, layout)
    check_run_dir(config, resume=resume)
    if config.data.num_workers:
        start_worker_server()
    device = choose_device(config)
    owns_group = start_process_group(config, rank=rank, world_size=world_size, device=device)
    status = set_up_run_dir(config, layout, rank=rank)
    stop = StopRequest(stop_file)
    setup = RankSetup(rank=rank, device=device, status=status, stop=stop)
    is_teacher = layout.mesh_of(rank) is layout.teacher
    with recorded_end(status, stop, is_teacher=is_teacher):
        job = set_up_job(config, layout, setup, resume=resume)
        if is_teacher:
            run_teacher_rank(job)
        else:
            run_student_rank(job)
        status.at("has finished, waits for all ranks")
        dist.barrier()
    status.close()
    if owns_group:
        dist.destroy_process_group()


def route_plan(job: Job) -> RoutePlan:
    """Return who serves whom."""
    layout = job.topology.layout
    assert layout.teacher is not None
    return RoutePlan(
        accumulation_steps=job.batch.accumulation_steps,
        microbatches_of=None if job.batch.unit_tokens is None else job.num_microbatches,
        student_dp=layout.student.dp,
        teacher_dp=layout.teacher.dp,
    )


def run_teacher_rank(job: Job) -> None:
    """Load this rank's stage of the teacher and stream every unit that its replica serves."""
    config, topology = job.config, job.topology
    mesh = topology.layout.teacher
    assert mesh is not None and config.teacher is not None and topology.teacher_groups is not None
    at, plan = mesh.coordinate_of(topology.rank), route_plan(job)

    def planned() -> Iterator[Unit]:
        return units_of_replica(at.dp, plan, job.first_step, config.train.steps)

    with job.loader(planned(), job.view("teacher", with_pixels=at.pp == 0)) as loader:
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
        run_teacher(rank, planned())


def feature_sender(job: Job) -> FeatureSender:
    """Return the sending end of every edge of this rank."""
    topology, transfer = job.topology, job.config.transfer
    assert topology.layout.teacher is not None
    tp_rank = topology.layout.teacher.coordinate_of(topology.rank).tp
    student = topology.layout.student
    peers = {
        student.coordinate_of(receiver).dp: Edge(group=group, peer_rank=receiver)
        for (_, receiver), group in topology.edges.items()
    }
    return FeatureSender(
        peers,
        is_header_sender=tp_rank == 0,
        prefetch=transfer.prefetch,
        timeout_s=transfer.timeout_s,
        who=topology.layout.who,
        status=job.status,
    )


def feature_receiver(job: Job, module: StudentModule) -> FeatureReceiver:
    """Return the receiving end of every edge of this rank."""
    topology, transfer = job.topology, job.config.transfer
    teacher = topology.layout.teacher
    assert teacher is not None
    peers = {}
    for (sender, _), group in topology.edges.items():
        at = teacher.coordinate_of(sender)
        peers[at.dp, at.tp] = Edge(group=group, peer_rank=sender)
    return FeatureReceiver(
        peers,
        timeout_s=transfer.timeout_s,
        hidden_size=module.teacher_head.shape[1],
        dtype=module.teacher_head.dtype,
        device=topology.device,
        who=topology.layout.who,
        status=job.status,
    )


def run_student_rank(job: Job) -> None:
    """Build the student side, go on from a checkpoint if there is one, and run the student loop."""
    with student_loader(job) as loader:
        rank = build_student_rank(job, loader)
        try:
            run_student(rank, job.config, first_step=job.first_step)
        finally:
            rank.recorder.close()
            rank.checkpoints.close()


def planned_units(job: Job) -> Iterator[Unit]:
    """Yield this student rank's units from the job's first step to the last."""
    assert job.topology.student_group is not None
    return units_of_student(
        job.topology.student_group.rank(),
        num_microbatches=job.num_microbatches,
        first_step=job.first_step,
        last_step=job.config.train.steps,
    )


def student_loader(job: Job) -> UnitLoader:
    """Return the loader of this student rank's units: with pixels, and in the teacher's tokens without."""
    views = [job.view("student", with_pixels=True)]
    if job.stage.has_teacher:
        views.append(job.view("teacher", with_pixels=False))
    return job.loader(planned_units(job), *views)


def build_student_rank(job: Job, loader: UnitLoader) -> StudentRank:
    """Return everything that the student loop works with, at the job's first step (collective)."""
    config, group = job.config, job.topology.student_group
    assert group is not None and job.topology.checkpoint_group is not None
    job.status.at("loads the student")
    module = build_student_module(config, device=job.topology.device)
    log_parameters(module, job.stage)
    feed = student_feed(job, module, loader)
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
        units=feed.units(planned_units(job), prefetch=config.transfer.prefetch),
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


def student_feed(job: Job, module: StudentModule, loader: UnitLoader) -> StudentFeed:
    """Return the source of this rank's units."""
    mesh = job.topology.layout.teacher
    teacher = None
    if mesh is not None:
        teacher = TeacherSide(
            receiver=feature_receiver(job, module),
            plan=route_plan(job),
            mesh=mesh,
            answers=answer_inputs_of(job.config, with_questions=job.stage.with_questions),
        )
    tokens = StepTokens(index=job.index, order=job.order, batch=job.batch)
    return StudentFeed(
        loader.load,
        teacher,
        stage=job.stage,
        counts_of_step=tokens.of_step,
        device=job.topology.device,
    )


def run_state(job: Job, digests: InputDigests, steps_done: int) -> RunState:
    """Return what identifies the run's position and its inputs."""
    return RunState(
        step=steps_done,
        samples=steps_done * job.batch.samples_per_step,
        seed=job.config.train.seed,
        data_digest=job.order.identity,
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
