"""Asks every rank of a layout, one after another and without its weights, what it would read of a teacher."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from genrecal_mcore.config import LanguageBodySpec
from genrecal_mcore.models.teacher import TeacherLanguageBody
from genrecal_mcore.models.teacher.loading import ShardedTensorLoadPlanner, shards_of
from genrecal_mcore.parallel import Layout, MeshSpec, build_topology, install_cpu_shims


def check_loads_at(spec: LanguageBodySpec, language: Path, *, tp: int, pp: int) -> None:
    """Raise `ValueError` when a rank of tp x pp would miss a tensor, or no rank would read one that is there.

    Ranks are imitated by torch's fake process group; their tensors are never filled, so that they take no
    memory.
    """
    mesh = MeshSpec(name="teacher", tp=tp, pp=pp)
    metadata = dcp.FileSystemReader(language).read_metadata()
    read: set[str] = set()
    for rank in range(mesh.size):
        shards = _shards_of_rank(spec, mesh, rank)
        planner = ShardedTensorLoadPlanner(shards)
        planner.set_up_planner({}, metadata)
        read |= {item.storage_index.fqn for item in planner.create_local_plan().items}
    unread = sorted(set(metadata.state_dict_metadata) - read)
    if unread:
        raise ValueError(
            f"{language} holds {len(unread)} tensors that no rank of tp {mesh.tp} x pp {mesh.pp} reads, e.g. "
            f"{unread[0]}; this is a bug of the table"
        )


def _shards_of_rank(spec: LanguageBodySpec, mesh: MeshSpec, rank: int) -> list[ShardedTensor]:
    install_cpu_shims()
    with _imitated_group(rank=rank, world_size=mesh.size + 1):
        layout = Layout(teacher=mesh, student=MeshSpec(name="student", rank_offset=mesh.size))
        topology = build_topology(layout, rank=rank, device=torch.device("cpu"), served_pairs=[])
        assert topology.teacher_groups is not None
        body = TeacherLanguageBody(spec, mesh, topology.teacher_groups, dtype=torch.bfloat16)
        return shards_of(body.sharded_state_dict())


@contextmanager
def _imitated_group(*, rank: int, world_size: int) -> Iterator[None]:
    """Make a process group whose other ranks are not there; its collectives do nothing."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
    try:
        yield
    finally:
        dist.destroy_process_group()
