"""Lets this process join its job as one rank, and leave it: device, process group, run folder, last words.

Collectives of plain records, for setting up, are here too.
"""

import logging
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist

from genrecal_mcore.config import RunConfig, write_run_config
from genrecal_mcore.data import start_worker_server
from genrecal_mcore.observability import set_up_logging, versions_text
from genrecal_mcore.parallel import Layout, install_cpu_shims, layout_of
from genrecal_mcore.status import RankStatus, StatusRecord, status_path
from genrecal_mcore.training.ending import StopRequest, recorded_end

logger = logging.getLogger(__name__)

Decided = TypeVar("Decided")


@dataclass(frozen=True, kw_only=True, slots=True)
class RankSetup:
    """What a rank is given before the job is set up."""

    rank: int
    device: torch.device
    status: RankStatus
    stop: StopRequest


def layout_of_job(config: RunConfig) -> Layout:
    """Return the layout over the ranks that torchrun (or a single process) started.

    Raises `ValueError` when the meshes do not tile them.
    """
    return layout_of(config.mesh, world_size=int(os.environ.get("WORLD_SIZE", "1")))


@contextmanager
def joined_job(config: RunConfig, layout: Layout, stop_file: Path | None) -> Iterator[RankSetup]:
    """Join the job, and leave it when all ranks are done; how this rank ends is recorded."""
    if config.data.num_workers:
        start_worker_server()
    rank, device = int(os.environ.get("RANK", "0")), choose_device(config)
    owns_group = start_process_group(config, rank=rank, world_size=layout.world_size, device=device)
    status = set_up_run_dir(config, layout, rank=rank)
    stop = StopRequest(stop_file)
    with recorded_end(status, stop, is_teacher=layout.mesh_of(rank) is layout.teacher):
        yield RankSetup(rank=rank, device=device, status=status, stop=stop)
        status.at("has finished, waits for all ranks")
        dist.barrier()
    status.close()
    if owns_group:
        dist.destroy_process_group()


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


def gather_over_world(local: list) -> list[list]:
    """All-gather a list of plain records over the world."""
    gathered: list = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, local)
    return gathered


def decided_by_first_rank(decide: Callable[[], Decided], *, rank: int) -> Decided:
    """Return on every rank what rank 0 decides (collective over the world).

    Raises its `ValueError` on every rank, so that all of them end with the same words.
    """
    outcome: list = [None, None]
    if rank == 0:
        try:
            outcome[0] = decide()
        except ValueError as error:
            outcome[1] = str(error)
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise ValueError(outcome[1])
    return outcome[0]
