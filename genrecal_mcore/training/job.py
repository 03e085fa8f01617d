"""Sets up a job on one rank: checks before anything is written, the process group, the data, the topology.

What the rank then does is in `run`.
"""

import logging
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from genrecal_mcore.config import RunConfig, validate_teacher_folder, write_run_config
from genrecal_mcore.data import (
    BatchShape,
    ModelProcessor,
    SampleIndex,
    SampleOrder,
    UnitLoader,
    View,
    batch_shape,
    build_index,
    check_shared_tokens,
    check_vocabularies,
    first_samples,
    load_processors,
    num_microbatches,
    sample_order,
    unit_samples,
    write_skipped,
)
from genrecal_mcore.layouts import open_checkpoint
from genrecal_mcore.models import check_student_folder
from genrecal_mcore.native import model_config
from genrecal_mcore.observability import set_up_logging, versions_text
from genrecal_mcore.parallel import Layout, Topology, build_topology, install_cpu_shims
from genrecal_mcore.status import RankStatus, StatusRecord, status_path
from genrecal_mcore.training.checkpoint import checkpoints_of, latest_checkpoint, read_run_state
from genrecal_mcore.training.ending import StopRequest
from genrecal_mcore.training.integrity import newest_whole
from genrecal_mcore.training.stages import Stage, stage_of
from genrecal_mcore.training.tracing import begin_trace
from genrecal_mcore.transfer import Unit, edges

logger = logging.getLogger(__name__)

NUM_TRIAL_RECORDS = 8
"""Records that are looked at before a job."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What every rank knows once the job is set up."""

    config: RunConfig
    stage: Stage
    topology: Topology
    index: SampleIndex
    order: SampleOrder
    batch: BatchShape
    processors: dict[str, ModelProcessor | None]
    checkpoint: Path | None
    """Where a resumed run goes on from; None for a fresh one."""
    first_step: int
    """The step that this start of the run begins with."""
    status: RankStatus
    stop: StopRequest

    def view(self, role: str, *, with_pixels: bool) -> View:
        """Return how `role` sees samples; the teacher's view is padded as its mesh needs it."""
        processor, teacher = self.processors[role], self.topology.layout.teacher
        assert processor is not None
        multiple = teacher.pad_to_multiple_of if teacher is not None and role == "teacher" else 1
        return View(processor=processor, with_pixels=with_pixels, pad_to_multiple_of=multiple)

    def loader(self, planned: Iterable[Unit], *views: View) -> UnitLoader:
        """Return a loader that has started to load the planned units; to be closed."""
        return UnitLoader(
            (unit_samples(unit, self.index, self.order, self.batch) for unit in planned),
            views,
            num_workers=self.config.data.num_workers,
            pin_memory=self.topology.device.type == "cuda",
        )

    def num_microbatches(self, step: int) -> int:
        """Return how many microbatches a step has, the same on every rank."""
        return num_microbatches(self.order, step=step, batch=self.batch)


def check_inputs(config: RunConfig, layout: Layout) -> None:
    """Raise `ValueError` for checkpoints that are damaged or that the mesh cannot hold."""
    check_student_folder(config.student.checkpoint)
    check_checkpointed_layers(config)
    if config.teacher is not None and layout.teacher is not None:
        spec = validate_teacher_folder(config.teacher.checkpoint).language
        mesh = layout.teacher
        spec.check_divisible(tp=mesh.tp, pp=mesh.pp, layers_per_stage=mesh.layers_per_stage)
    if config.init_from is not None and latest_checkpoint(config.init_from) is None:
        raise ValueError(
            f"init_from: {config.init_from} holds no checkpoint; train that run first or name another"
        )
    if config.compares_heads:
        check_pair(config)


def check_pair(config: RunConfig) -> None:
    """Raise `ValueError` for models whose distributions cannot be compared: other tokens, or other ids.

    All samples are compared when the data is checked; the first few show a wrong pair before a job.
    """
    processors = load_processors(config)
    check_vocabularies(config.method, processors)
    check_shared_tokens(
        config, processors, first_samples(config.data, processors, num_records=NUM_TRIAL_RECORDS)
    )


def check_checkpointed_layers(config: RunConfig) -> None:
    """Raise `ValueError` when more layers are to be computed again than the student has."""
    checkpointed = config.train.checkpointed_layers
    if checkpointed is None:
        return
    student = open_checkpoint(config.student.checkpoint)
    num_layers = model_config(student.config, student.family).get_text_config().num_hidden_layers
    if checkpointed > num_layers:
        raise ValueError(
            f"train.checkpointed_layers is {checkpointed}, but the student in {config.student.checkpoint} "
            f"has {num_layers} decoder layers; lower it, or leave it out to compute all of them again"
        )


def check_run_dir(config: RunConfig, *, resume: bool) -> None:
    """Raise `ValueError` when the run folder holds a run and this is no resume, or the other way round.

    A run that ended before its first step left nothing to lose, and may be started again.
    """
    folder = config.run.dir
    metrics = folder / "metrics.jsonl"
    has_steps = latest_checkpoint(folder) is not None or metrics.exists() and metrics.stat().st_size > 0
    if has_steps and not resume:
        raise ValueError(f"run.dir: {folder} holds a run already; pass --resume or choose another run.dir")
    if resume and not (folder / "config.yaml").exists():
        raise ValueError(f"run.dir: {folder} holds no run to resume; leave out --resume or name another")


def choose_device(config: RunConfig) -> torch.device:
    """Return this rank's device; `auto` takes CUDA where there is one."""
    kind = config.device
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cpu":
        install_cpu_shims()
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def start_process_group(config: RunConfig, *, rank: int, world_size: int, device: torch.device) -> bool:
    """Join the job: NCCL on CUDA, gloo on CPU; a single process needs no rendezvous.

    Returns whether this call made the group; a caller that made one itself keeps it.
    """
    if dist.is_initialized():
        return False
    store = dist.HashStore() if world_size == 1 and "MASTER_ADDR" not in os.environ else None
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        rank=rank,
        world_size=world_size,
        store=store,
        timeout=timedelta(seconds=config.transfer.timeout_s),
        device_id=device if device.type == "cuda" else None,
    )
    return True


def set_up_run_dir(config: RunConfig, layout: Layout, *, rank: int) -> RankStatus:
    """Make the run folder, this rank's log file and its status; the config is written once, by rank 0."""
    dist.barrier()  # every rank has looked for an earlier run before rank 0 makes one
    role = layout.who(rank).partition("(")[2].rstrip(")")
    set_up_logging(config.run.dir, rank=rank, role=role, speaks=rank == layout.student.rank_offset)
    if rank == 0:
        write_run_config(config, config.run.dir / "config.yaml")
        (config.run.dir / "versions.txt").write_text(versions_text(), encoding="utf-8")
    logger.info("one of %d ranks on %s", layout.world_size, platform.node())
    record = StatusRecord(
        rank=rank, role=role, host=platform.node(), pid=os.getpid(), world_size=layout.world_size
    )
    return RankStatus(status_path(config.run.dir, rank), record)


@dataclass(frozen=True, kw_only=True, slots=True)
class RankSetup:
    """What a rank is given before the job is set up."""

    rank: int
    device: torch.device
    status: RankStatus
    stop: StopRequest


def set_up_job(config: RunConfig, layout: Layout, setup: RankSetup, *, resume: bool) -> Job:
    """Check the data, make the groups, find the checkpoint to go on from (collective over the world)."""
    rank, stage = setup.rank, stage_of(config)
    setup.status.at("checks the data, with all ranks")
    processors = load_processors(config)
    index = build_index(
        config.data, processors, rank=rank, world_size=layout.world_size, gather=gather_over_world
    )
    check_positions(config, index)
    if config.compares_heads:
        check_shared_tokens(config, processors, zip(index.samples, index.facts, strict=True))
    if rank == 0:
        write_skipped(config.run.dir / "skipped.jsonl", index)
    checkpoint = _checkpoint_to_go_on_from(config.run.dir, rank=rank) if resume else None
    first_step = read_run_state(checkpoint).step if checkpoint else 0
    setup.status.at("makes process groups, with all ranks")
    begin_trace(config, setup.status, first_step=first_step)
    served = edges(layout.student.dp, layout.teacher.dp) if layout.teacher else ()
    return Job(
        config=config,
        stage=stage,
        topology=build_topology(layout, rank=rank, device=setup.device, served_pairs=served),
        index=index,
        order=sample_order(config, index),
        batch=batch_shape(config),
        processors=processors,
        checkpoint=checkpoint,
        first_step=first_step,
        status=setup.status,
        stop=setup.stop,
    )


def _checkpoint_to_go_on_from(run_dir: Path, *, rank: int) -> Path | None:
    """Return the newest whole checkpoint, chosen by rank 0 for all (collective over the world)."""
    found: list[Path | str | None] = [None]
    if rank == 0:
        try:
            found[0] = newest_whole(checkpoints_of(run_dir))
        except ValueError as error:
            found[0] = str(error)
    dist.broadcast_object_list(found, src=0)
    if isinstance(found[0], str):
        raise ValueError(found[0])
    return found[0]


def check_positions(config: RunConfig, index: SampleIndex) -> None:
    """Raise `ValueError` when a sample is longer than the positions that the teacher's RoPE was made for."""
    if config.teacher is None:
        return
    limit = validate_teacher_folder(config.teacher.checkpoint).language.max_position_embeddings
    longest = max(facts.teacher_tokens for facts in index.facts)
    if longest > limit:
        raise ValueError(
            f"data.max_tokens: a sample has {longest} tokens, but the teacher has {limit} positions; "
            f"set data.max_tokens to {limit} to skip such samples"
        )


def gather_over_world(local: list) -> list[list]:
    """All-gather a list of plain records over the world."""
    gathered: list = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, local)
    return gathered
