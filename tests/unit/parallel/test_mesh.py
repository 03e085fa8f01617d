from itertools import product

import pytest

from genrecal_mcore.config import MeshConfig
from genrecal_mcore.parallel import Layout, MeshSpec, layout_of


def mesh_config(**teacher) -> MeshConfig:
    return MeshConfig.model_validate({"teacher": teacher, "student": {"dp": 3}})


@pytest.mark.parametrize(("tp", "pp", "dp"), list(product((1, 2, 3), repeat=3)))
def test_ranks_and_coordinates_are_inverse(tp: int, pp: int, dp: int) -> None:
    mesh = MeshSpec(name="teacher", tp=tp, pp=pp, dp=dp, rank_offset=5)
    ranks = [mesh.rank_at(tp=t, dp=d, pp=p) for p in range(pp) for d in range(dp) for t in range(tp)]
    assert ranks == list(mesh.ranks)
    for rank in ranks:
        at = mesh.coordinate_of(rank)
        assert mesh.rank_at(tp=at.tp, dp=at.dp, pp=at.pp) == rank


def test_teacher_comes_first_and_meshes_tile_the_world() -> None:
    layout = layout_of(mesh_config(tp=2, pp=2, dp=1), world_size=7)
    assert layout.teacher is not None
    assert [*layout.teacher.ranks, *layout.student.ranks] == list(range(7))


def test_wrong_world_size_names_both_numbers_and_the_remedy() -> None:
    with pytest.raises(
        ValueError, match=r"need 7 ranks .*tp 2 x pp 2 x dp 1 = 4, student dp 3.* has 6; start 7"
    ):
        layout_of(mesh_config(tp=2, pp=2, dp=1), world_size=6)


def test_last_stage_ranks_are_the_tp_ranks_of_one_replica() -> None:
    mesh = MeshSpec(name="teacher", tp=2, pp=3, dp=2)
    assert mesh.last_stage_ranks(1) == (10, 11)


@pytest.mark.parametrize(
    ("layers_per_stage", "expected"),
    [(None, [range(0, 2), range(2, 4), range(4, 6)]), ((1, 3, 2), [range(0, 1), range(1, 4), range(4, 6)])],
    ids=["even", "uneven"],
)
def test_stages_hold_consecutive_layers_that_add_up(
    layers_per_stage: tuple[int, ...] | None, expected: list[range]
) -> None:
    mesh = MeshSpec(name="teacher", pp=3, layers_per_stage=layers_per_stage)
    assert [mesh.layers_of_stage(stage, num_layers=6) for stage in range(3)] == expected


def test_the_configured_split_reaches_the_mesh() -> None:
    teacher = layout_of(mesh_config(pp=2, layers_per_stage=[1, 3]), world_size=5).teacher
    assert teacher is not None and teacher.layers_per_stage == (1, 3)


def test_stages_are_paired_with_the_one_after_in_the_same_replica_and_tp_rank() -> None:
    mesh = MeshSpec(name="teacher", tp=2, pp=3, dp=2, rank_offset=1)
    pairs = mesh.stage_pairs
    assert pairs == tuple((rank, rank + 4) for rank in range(1, 9))
    assert MeshSpec(name="teacher", tp=2).stage_pairs == ()


def test_a_rank_of_the_other_mesh_is_refused() -> None:
    with pytest.raises(ValueError, match="rank 4 is not in the student mesh"):
        MeshSpec(name="student", dp=2, rank_offset=5).coordinate_of(4)


def test_describe_names_every_rank() -> None:
    layout = Layout(
        teacher=MeshSpec(name="teacher", tp=2), student=MeshSpec(name="student", dp=2, rank_offset=2)
    )
    assert layout.describe().splitlines() == [
        "rank 0 (teacher tp 0 pp 0 dp 0)",
        "rank 1 (teacher tp 1 pp 0 dp 0)",
        "rank 2 (student dp 0)",
        "rank 3 (student dp 1)",
    ]
