import os
import signal

import pytest
import torch
import torch.distributed as dist

from tests.helpers.rank_pool import RankFailedError, RankPool

pytestmark = pytest.mark.distributed


def _sum_of_ranks(offset: int) -> float:
    total = torch.tensor([float(dist.get_rank() + offset)])
    dist.all_reduce(total)
    return total.item()


def _raise_on_rank_1() -> None:
    if dist.get_rank() == 1:
        raise ValueError("rank 1 has had enough")
    dist.barrier()


def _kill_rank_1() -> None:
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def test_results_come_back_by_rank(rank_pool: RankPool) -> None:
    assert rank_pool.run(dist.get_rank, 3) == [0, 1, 2]


def test_world_size_may_change_between_runs(rank_pool: RankPool) -> None:
    assert rank_pool.run(_sum_of_ranks, 3, 10) == [33.0] * 3
    assert rank_pool.run(_sum_of_ranks, 2, 10) == [21.0] * 2


def test_an_exception_is_raised_again_with_its_rank(rank_pool: RankPool) -> None:
    with pytest.raises(RankFailedError, match=r"rank 1: (?s:.)*rank 1 has had enough"):
        rank_pool.run(_raise_on_rank_1, 2)
    assert rank_pool.run(_sum_of_ranks, 2, 0) == [1.0] * 2


def test_a_killed_rank_is_reported_and_replaced(rank_pool: RankPool) -> None:
    outcomes = rank_pool.outcomes(_kill_rank_1, 3)
    assert outcomes[1].exit_code == -signal.SIGKILL
    assert not outcomes[0].is_ok
    assert rank_pool.run(_sum_of_ranks, 3, 0) == [3.0] * 3
