"""The ranks of an evaluation: each answers its share; they meet to share out, and at the end."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

Made = TypeVar("Made")

MAX_WAIT = timedelta(days=2)
"""For the slowest rank's share. A rank that dies is noticed at once: its connection closes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This rank among all; a single process needs no group."""

    rank: int = 0
    world_size: int = 1
    group: dist.ProcessGroup | None = None

    def share(self, items: Sequence[Any]) -> Sequence[Any]:
        """Return every `world_size`-th item, beginning at this rank's number."""
        return items[self.rank :: self.world_size]

    def broadcast_from_first(self, make: Callable[[], Made]) -> Made:
        """Return on all ranks what rank 0's `make` returns, or raise its `ValueError` on all (collective)."""
        if self.group is None:
            return make()
        box: list[Any] = [None, None]
        if self.rank == 0:
            try:
                box[0] = make()
            except ValueError as error:
                box[1] = str(error)
        dist.broadcast_object_list(box, src=0, group=self.group)
        if box[1] is not None:
            raise ValueError(box[1])
        return box[0]

    def all_gather_shares(self, own: Sequence[Any]) -> list[Any]:
        """Return the items of all ranks' shares in the order that `share` dealt them out (collective)."""
        if self.group is None:
            return list(own)
        shares: list[Any] = [None] * self.world_size
        dist.all_gather_object(shares, list(own), group=self.group)
        items: list[Any] = [None] * sum(map(len, shares))
        for rank, share in enumerate(shares):
            items[rank :: self.world_size] = share
        return items

    def wait_for_all(self) -> None:
        """Return when every rank has called it (collective)."""
        if self.group is not None:
            dist.barrier(group=self.group)


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
