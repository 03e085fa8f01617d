"""Adds up what collectives move, as an operation of torch sees it."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

C10D = torch.ops.c10d


class CollectiveBytes(TorchDispatchMode):
    """While entered, counts the bytes of what collectives give or take whole."""

    def __init__(self) -> None:
        super().__init__()
        self.gathered = self.scattered = self.all_reduced = self.calls = 0

    def sent(self, num_ranks: int) -> float:
        """Return what each of a group's ranks sends, in rings: a share of it, twice in an all-reduce."""
        share = (num_ranks - 1) / num_ranks
        return share * (self.gathered + self.scattered + 2 * self.all_reduced)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self.calls += 1
        if func == C10D._allgather_base_.default:
            self.gathered += args[0].nbytes
        if func == C10D._reduce_scatter_base_.default:
            self.scattered += args[1].nbytes
        if func == C10D.allreduce_.default:
            self.all_reduced += sum(tensor.nbytes for tensor in args[0])
        return func(*args, **(kwargs or {}))
