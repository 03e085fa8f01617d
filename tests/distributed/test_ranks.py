import pytest
import torch.distributed as dist

from genrecal_mcore.data import Ranks
from tests.helpers.rank_pool import RankPool

pytestmark = pytest.mark.distributed


def said_on_a_rank(bad_ranks: tuple[int, ...]) -> str:
    """Do a share of work that fails on some ranks, and return what this rank hears of it."""
    rank = dist.get_rank()
    ranks = Ranks(rank=rank, world_size=dist.get_world_size(), group=dist.group.WORLD)

    def work() -> None:
        if rank in bad_ranks:
            raise ValueError(f"rank {rank} found bad input")

    try:
        ranks.do_and_wait_for_all(work)
    except ValueError as error:
        return str(error)
    return "all is well"


def test_bad_input_that_some_ranks_find_is_raised_by_all_of_them(rank_pool: RankPool) -> None:
    assert rank_pool.run(said_on_a_rank, 3, ()) == ["all is well"] * 3
    assert rank_pool.run(said_on_a_rank, 3, (1, 2)) == ["rank 1 found bad input"] * 3
