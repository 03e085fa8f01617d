"""Counts against the modules that training builds, at several meshes and for every kind of body."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from checkpoint_tools.conversion import convert_to_mcore
from genrecal_mcore.config import load_teacher_manifest
from genrecal_mcore.models import load_teacher_stage
from genrecal_mcore.parallel import Layout, MeshSpec, build_topology, install_cpu_shims
from genrecal_mcore.planning import models_in_folders
from genrecal_mcore.planning.on_meta import vision_parameters
from genrecal_mcore.planning.sizes import StudentTensor, teacher_body_parameters
from tests.helpers.planned import run_of_stage
from tests.helpers.rank_pool import RankPool
from tests.helpers.tiny_models import make_tiny_model

KINDS = ("internvl_llama", "internvl_qwen2", "qwen2_vl_tied", "qwen2_5_vl")
MESHES = [
    pytest.param({"tp": 1, "pp": 1}, id="tp1-pp1"),
    pytest.param({"tp": 1, "pp": 2}, id="tp1-pp2"),
    pytest.param({"tp": 1, "pp": 4}, id="tp1-pp4"),
    pytest.param({"tp": 2, "pp": 2}, id="tp2-pp2"),
    pytest.param({"tp": 2, "pp": 3, "layers_per_stage": (1, 2, 1)}, id="tp2-pp1+2+1"),
]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("teachers")
    for seed, kind in enumerate(KINDS):
        convert_to_mcore(make_tiny_model(root / f"{kind}_hf", kind, seed=seed), root / kind)
    return [root / kind for kind in KINDS]


def built_parameters(folders: list[Path], degrees: dict[str, Any]) -> list[tuple[int, int]] | None:
    """Return the parameters of each teacher's body and vision side on this rank; None on the student's."""
    install_cpu_shims()
    mesh = MeshSpec(name="teacher", **degrees)
    layout = Layout(teacher=mesh, student=MeshSpec(name="student", rank_offset=mesh.size))
    topology = build_topology(layout, rank=dist.get_rank(), device=torch.device("cpu"), served_pairs=[])
    if not topology.is_teacher:
        return None
    stages = [
        load_teacher_stage(folder, mesh, topology.teacher_groups, device=topology.device)
        for folder in folders
    ]
    return [(num_parameters(stage.body), num_parameters(stage.vision)) for stage in stages]


def num_parameters(module: torch.nn.Module | None) -> int:
    return sum(p.numel() for p in module.parameters()) if module is not None else 0


@pytest.mark.distributed
@pytest.mark.parametrize("degrees", MESHES)
def test_every_rank_of_the_teacher_has_as_many_parameters_as_counted(
    degrees: dict[str, Any], rank_pool: RankPool, teachers: list[Path], tiny_folders: dict[str, Path]
) -> None:
    mesh = MeshSpec(name="teacher", **degrees)
    built = rank_pool.run(built_parameters, mesh.size + 1, teachers, degrees)
    for number, folder in enumerate(teachers):
        spec = load_teacher_manifest(folder).language
        config = run_of_stage({**tiny_folders, "teacher": folder}, 1)
        vision = vision_parameters(models_in_folders(config).teacher.model)
        for rank in mesh.ranks:
            stage = mesh.coordinate_of(rank).pp
            body = teacher_body_parameters(spec, mesh, stage=stage)
            assert built[rank][number] == (body, vision if stage == 0 else 0), (folder.name, rank)


def test_a_shard_is_rounded_up_to_whole_rows() -> None:
    tensor = StudentTensor(name="w", shape=(7, 5), element_size=4, learns=True, unit="root")
    assert [tensor.local_numel(dp) for dp in (1, 2, 7, 9)] == [35, 20, 5, 5]
    assert replace(tensor, unit=None).local_numel(9) == 35
