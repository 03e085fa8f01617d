import pytest

from genrecal_mcore.parallel import Layout, MeshSpec
from genrecal_mcore.planning import check_nodes

LAYOUT = Layout(
    teacher=MeshSpec(name="teacher", tp=4, pp=3), student=MeshSpec(name="student", rank_offset=12)
)


def test_tensor_parallel_groups_that_fill_their_nodes_are_accepted() -> None:
    check_nodes(LAYOUT, teacher_ranks_per_node=4)
    check_nodes(LAYOUT, teacher_ranks_per_node=12)


def test_a_tensor_parallel_group_on_two_nodes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tp \(4\) does not divide the 6 teacher ranks of a node"):
        check_nodes(LAYOUT, teacher_ranks_per_node=6)


def test_a_job_without_a_teacher_has_no_such_group() -> None:
    check_nodes(Layout(teacher=None, student=LAYOUT.student), teacher_ranks_per_node=3)
