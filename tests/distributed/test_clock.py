import time

import pytest
import torch.distributed as dist

from genrecal_mcore.parallel import ClockOffset, exchange_clocks
from tests.helpers.rank_pool import RankPool

pytestmark = pytest.mark.distributed

SHIFT_NS = 3_600_000_000_000


def offset_of_a_shifted_clock() -> ClockOffset:
    """Rank r's clock is r hours ahead."""
    rank = dist.get_rank()
    assert dist.group.WORLD is not None
    return exchange_clocks(dist.group.WORLD, clock=lambda: time.perf_counter_ns() + rank * SHIFT_NS)


def test_each_ranks_shift_is_found_within_the_uncertainty(rank_pool: RankPool) -> None:
    for rank, found in enumerate(rank_pool.run(offset_of_a_shifted_clock, 3)):
        assert abs(found.offset_ns + rank * SHIFT_NS) <= found.uncertainty_ns < SHIFT_NS
