"""The ranks that share work on data: each does its share, and they meet to share out and to collect."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed as dist

Made = TypeVar("Made")


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

    def do_and_wait_for_all(self, do: Callable[[], None]) -> None:
        """Return when every rank has done its part, or raise the first rank's `ValueError` on all of them
        (collective): none goes on to wait for one that has left.
        """
        if self.group is None:
            do()
            return
        problem = None
        try:
            do()
        except ValueError as error:
            problem = str(error)
        problems: list[str | None] = [None] * self.world_size
        dist.all_gather_object(problems, problem, group=self.group)
        for text in problems:
            if text is not None:
                raise ValueError(text)

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
