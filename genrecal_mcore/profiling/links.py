"""Times what two ranks of this machine are to each other, in two processes that this one starts."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from genrecal_mcore.parallel import children_import_silently
from genrecal_mcore.planning.costs import Op
from genrecal_mcore.profiling.neighbours import NUM_RANKS, MessageBytes, time_neighbours


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbourhood:
    """What two ranks are to each other."""

    seconds_per: dict[Op, float]
    """Of a byte that a rank sends, in rings, and of the start of a collective."""
    crowded_pace: float
    """How fast a core is while the other computes too, in times of its pace alone."""


def neighbourhood(device_type: str, sizes: MessageBytes) -> Neighbourhood:
    """Time two ranks of this machine; nothing is known where one has no GPU of its own."""
    if device_type == "cuda" and torch.cuda.device_count() < NUM_RANKS:
        return Neighbourhood(seconds_per={}, crowded_pace=1.0)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    queue = mp.get_context("spawn").SimpleQueue()
    with children_import_silently():
        mp.spawn(time_neighbours, args=(store.port, device_type, sizes, queue), nprocs=NUM_RANKS)
    found = queue.get()
    seconds_per = {
        Op.TENSOR_PARALLEL: found["all_reduce"],
        Op.COLLECTIVE_CALLS: found["start"],
        Op.PIPELINE: found["point_to_point"],
        Op.FEATURES: found["point_to_point"],
        Op.GATHERS: found["all_gather"],
        Op.REDUCTION: found["reduce_scatter"],
    }
    return Neighbourhood(seconds_per=seconds_per, crowded_pace=found["crowded_pace"])
