"""Makes the process groups of both meshes and hands them out by argument.

Every rank creates every group in one order, also those it is not in: group creation is collective over the
world, and a communicator that comes into being lazily can deadlock. Nobody reads a global group.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

import torch
import torch.distributed as dist
from megatron.core.hyper_comm_grid import HyperCommGrid
from megatron.core.process_groups_config import ProcessGroupCollection

from genrecal_mcore.parallel.mesh import Layout, MeshSpec

EdgeKey = tuple[int, int]
"""Global ranks of a sender and the rank that it sends to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Topology:
    """What one rank knows of the job: the layout, its own groups, its device."""

    layout: Layout
    rank: int
    device: torch.device
    teacher_groups: ProcessGroupCollection | None
    """tp, cp, dp, pp groups of this rank in the teacher mesh; None on student ranks."""
    student_group: dist.ProcessGroup | None
    """All student ranks; None on teacher ranks."""
    checkpoint_group: dist.ProcessGroup | None
    """The same ranks over gloo, for checkpoints that are written beside training; None on teacher ranks."""
    stage_edges: Mapping[EdgeKey, dist.ProcessGroup]
    """Two-rank groups that this rank is in, with its neighbours in the teacher's pipeline."""
    edges: Mapping[EdgeKey, dist.ProcessGroup]
    """Two-rank groups that this rank is in, one for each pair that exchanges features."""

    @property
    def is_teacher(self) -> bool:
        """Whether this rank belongs to the teacher mesh."""
        return self.layout.mesh_of(self.rank) is self.layout.teacher

    @property
    def who(self) -> str:
        """Name this rank for people."""
        return self.layout.who(self.rank)


def build_topology(
    layout: Layout, *, rank: int, device: torch.device, served_pairs: Sequence[tuple[int, int]]
) -> Topology:
    """Create every group of the job (collective over the world).

    `served_pairs` holds the (teacher replica, student dp rank) pairs that ever exchange features, see
    `transfer.route_plan.edges`.
    """
    teacher_groups = create_mesh_groups(layout.teacher, rank=rank) if layout.teacher else None
    student_group = dist.new_group(list(layout.student.ranks), group_desc="student")
    checkpoint_group = dist.new_group(list(layout.student.ranks), backend="gloo", group_desc="checkpoint")
    between_stages = layout.teacher.stage_pairs if layout.teacher else ()
    served = [
        (sender, layout.student.rank_at(dp=student_rank))
        for replica, student_rank in served_pairs
        for sender in (layout.teacher.last_stage_ranks(replica) if layout.teacher else ())
    ]
    topology = Topology(
        layout=layout,
        rank=rank,
        device=device,
        teacher_groups=teacher_groups if rank not in layout.student.ranks else None,
        student_group=student_group if rank in layout.student.ranks else None,
        checkpoint_group=checkpoint_group if rank in layout.student.ranks else None,
        stage_edges=_create_edges(between_stages, rank),
        edges=_create_edges(served, rank),
    )
    _all_reduce_over_edges(topology)
    return topology


def _create_edges(pairs: Iterable[EdgeKey], rank: int) -> dict[EdgeKey, dist.ProcessGroup]:
    groups = {pair: dist.new_group(list(pair), group_desc=f"edge_{pair[0]}_{pair[1]}") for pair in pairs}
    return {pair: group for pair, group in groups.items() if rank in pair}


def create_mesh_groups(mesh: MeshSpec, *, rank: int) -> ProcessGroupCollection:
    """Create all groups of a mesh (collective over the world) and return this rank's, if it has any."""
    grid = HyperCommGrid(
        [mesh.tp, 1, mesh.dp, mesh.pp], ["tp", "cp", "dp", "pp"], rank_offset=mesh.rank_offset
    )
    created = {
        axes: grid.create_pg(list(axes)) for axes in (("tp",), ("cp",), ("dp",), ("pp",), ("tp", "cp"))
    }
    groups = ProcessGroupCollection()
    if rank in mesh.ranks:
        groups.tp, groups.cp, groups.dp = created["tp",], created["cp",], created["dp",]
        groups.pp, groups.tp_cp = created["pp",], created["tp", "cp"]
        groups.dp_cp = groups.dp
    return groups


def _all_reduce_over_edges(topology: Topology) -> None:
    # One tiny collective an edge, in one global order, brings the communicator into being before training.
    for _, group in sorted([*topology.stage_edges.items(), *topology.edges.items()], key=itemgetter(0)):
        dist.all_reduce(torch.zeros(1, device=topology.device), group=group)
