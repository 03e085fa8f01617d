"""Joins the ranks of an evaluation."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist

from genrecal_mcore.data import Ranks

MAX_WAIT = timedelta(days=2)
"""For the slowest rank's share. A rank that dies is noticed at once: its connection closes."""


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Give this process's place in the job: under torchrun with the others over gloo, else alone.

    A process group that is there already is used, and kept.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if dist.is_initialized():
        yield Ranks(rank=dist.get_rank(), world_size=dist.get_world_size(), group=dist.group.WORLD)
        return
    if world_size == 1:
        yield Ranks()
        return
    dist.init_process_group("gloo", timeout=MAX_WAIT)
    yield Ranks(rank=dist.get_rank(), world_size=world_size, group=dist.group.WORLD)
    dist.destroy_process_group()  # only at a good end: with a rank gone it may wait for ever
