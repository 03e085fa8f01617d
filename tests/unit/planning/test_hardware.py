import pytest

from genrecal_mcore.parallel import Layout, MeshSpec
from genrecal_mcore.planning.costs import Op
from genrecal_mcore.planning.hardware import GPUS, hardware_named
from genrecal_mcore.planning.rates import COLLECTIVES, DENSE, NETWORK, assumed_rates

A100 = GPUS["a100-80g"]


def layout(*, tp: int = 1, dp: int, student_dp: int) -> Layout:
    teacher = MeshSpec(name="teacher", tp=tp, dp=dp)
    return Layout(teacher=teacher, student=MeshSpec(name="student", dp=student_dp, rank_offset=teacher.size))


def test_a_type_is_found_in_any_case() -> None:
    assert hardware_named("A100-80G") is A100


def test_an_unknown_type_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"--gpu a100-80gb is not known; did you mean a100-80g\?"):
        hardware_named("a100-80gb")


def test_ranks_of_this_machine_share_its_cores() -> None:
    assert hardware_named("cpu").cores is not None and A100.cores is None


def test_a_rate_is_the_assumed_share_of_the_peak() -> None:
    rates = assumed_rates(A100, layout(dp=1, student_dp=1))
    assert rates.seconds({Op.TEACHER_LINEARS: DENSE.share * 312e12}) == pytest.approx(1.0)


def test_traffic_that_leaves_a_node_is_slower() -> None:
    one, many = (assumed_rates(A100, layout(dp=dp, student_dp=dp)).seconds_per for dp in (4, 16))
    assert one[Op.FEATURES] == one[Op.PIPELINE] == 1 / (COLLECTIVES.share * A100.node_bytes_per_s)
    assert many[Op.FEATURES] == many[Op.PIPELINE] == 1 / (NETWORK.share * A100.network_bytes_per_s)


def test_a_ring_over_nodes_uses_all_adapters_of_a_node() -> None:
    many = assumed_rates(A100, layout(dp=8, student_dp=16)).seconds_per
    assert many[Op.GATHERS] == pytest.approx(many[Op.FEATURES] / 8)
