"""Flops and bytes of the teacher's stages against what the true modules compute and exchange."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from genrecal_mcore.models import Packing, load_teacher_stage
from genrecal_mcore.parallel import Layout, MeshSpec, build_topology, install_cpu_shims
from genrecal_mcore.planning.costs import Op
from genrecal_mcore.planning.counted import count_teacher
from genrecal_mcore.planning.models import converted_teacher
from genrecal_mcore.planning.teacher_costs import stage_cost
from genrecal_mcore.planning.workload import PackedSize, SampleSize
from tests.helpers.collective_bytes import CollectiveBytes
from tests.helpers.counted_flops import counted_flops
from tests.helpers.rank_pool import RankPool

LENGTHS = (11, 4, 9)
TILES = (4, 4, 4)
"""Image tokens of each tile; tp 2 computes one and two of them."""
MESHES = [
    pytest.param({"tp": 1}, id="tp1"),
    pytest.param({"tp": 2}, id="tp2"),
    pytest.param({"tp": 2, "sequence_parallel": True}, id="tp2-sp"),
    pytest.param({"tp": 1, "pp": 2, "layers_per_stage": (1, 3)}, id="pp2-1-3"),
]


def counted_stage(folder: Path, degrees: dict[str, Any]) -> tuple[int, float, int] | None:
    """Return this rank's flops and the bytes it exchanges with its tp group for one unit with images."""
    install_cpu_shims()
    mesh = MeshSpec(name="teacher", **degrees)
    layout = Layout(teacher=mesh, student=MeshSpec(name="student", rank_offset=mesh.size))
    topology = build_topology(layout, rank=dist.get_rank(), device=torch.device("cpu"), served_pairs=[])
    if not topology.is_teacher:
        return None
    stage = load_teacher_stage(folder, mesh, topology.teacher_groups, device=topology.device)
    bounds, tokens = (0, 11, 15, 24), sum(LENGTHS)
    ids = torch.full((1, tokens), 5)
    ids[0, : sum(TILES)] = stage.vision.config.image_token_id if stage.vision else 5
    local = tokens // mesh.tp if mesh.sequence_parallel else tokens
    hidden_states = torch.zeros(local, 1, stage.body.config.hidden_size)
    with torch.no_grad(), counted_flops() as flops, CollectiveBytes() as moved:
        if stage.is_first_stage:
            features = stage.all_gather_image_features(torch.zeros(len(TILES), 3, 24, 24), None, TILES)
            hidden_states = stage.embed(ids, features)
        packing = Packing.of(bounds, topology.device)
        stage.body(hidden_states, packing.positions[None], packing)
    return flops.get_total_flops(), moved.sent(mesh.tp), moved.calls


@pytest.mark.distributed
@pytest.mark.parametrize("degrees", MESHES)
def test_a_stage_computes_and_exchanges_what_is_counted(
    degrees: dict[str, Any], rank_pool: RankPool, tiny_folders: dict[str, Path]
) -> None:
    mesh = MeshSpec(name="teacher", **degrees)
    measured = rank_pool.run(counted_stage, mesh.size + 1, tiny_folders["teacher"], degrees)
    teacher = count_teacher(converted_teacher(tiny_folders["teacher"]))
    samples = [SampleSize(tokens=n, answer_tokens=2) for n in LENGTHS]
    samples[0] = SampleSize(tokens=LENGTHS[0], answer_tokens=2, features_per_item=TILES)
    for stage in range(mesh.pp):
        cost = stage_cost(teacher.shapes, mesh, PackedSize.of(samples), stage=stage)
        fullest = max(measured[mesh.rank_at(tp=tp, pp=stage)] for tp in range(mesh.tp))
        flops = sum(cost.get(op, 0.0) for op in (Op.TEACHER_LINEARS, Op.TEACHER_ATTENTION, Op.TEACHER_VISION))
        exchanged = cost.get(Op.TENSOR_PARALLEL, 0.0), cost.get(Op.COLLECTIVE_CALLS, 0)
        assert (flops, *exchanged) == fullest
