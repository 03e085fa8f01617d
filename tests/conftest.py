"""Fixtures for all tests: the pool of ranks, and tiny checkpoints and data made once a session."""

import os
from collections.abc import Iterator

import pytest

# Ranks share the cores: one thread each. Set before torch is imported for the first time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.helpers.rank_pool import RankPool  # noqa: E402


@pytest.fixture(scope="session")
def rank_pool() -> Iterator[RankPool]:
    """Give the session's one pool of gloo ranks; workers start when a test first asks for them."""
    pool = RankPool()
    yield pool
    pool.close()
