"""What two neighbouring processes time of each other. Imports torch alone: they start from nothing."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

NUM_RANKS = 2
ROUNDS = 9
LAYER_WIDTH, LAYER_CALLS = 512, 3
TIMEOUT_S = 120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class MessageBytes:
    """How much is sent at once: links are slower for small messages, caches for large ones."""

    hidden_states: int
    """Of a unit: what tensor-parallel ranks reduce, and stages and students are sent."""
    layer: int
    """Weights of a student's layer: what FSDP gathers, and reduces."""


def time_neighbours(rank: int, port: int, device_type: str, sizes: MessageBytes, queue: Any) -> None:
    """Join a neighbour over the store at `port`, time what both do, and let rank 0 put it into the queue."""
    torch.set_num_threads(1)
    device = torch.device(device_type, rank) if device_type == "cuda" else torch.device("cpu")
    timeout = timedelta(seconds=TIMEOUT_S)
    store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timeout)
    backend = "nccl" if device_type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=NUM_RANKS, timeout=timeout)
    found = _seconds_of_links(rank, device, sizes)
    found["crowded_pace"] = _crowded_pace(rank) if device_type == "cpu" else 1.0
    if rank == 0:
        queue.put(found)
    dist.barrier()
    dist.destroy_process_group()


def _seconds_of_links(rank: int, device: torch.device, sizes: MessageBytes) -> dict[str, float]:
    """Return the seconds of the start of a collective, and of each byte that a rank sends, in rings."""
    rows, layer = (
        torch.ones(-(-size // 8) * 2, device=device) for size in (sizes.hidden_states, sizes.layer)
    )
    shard, one = layer[: len(layer) // NUM_RANKS].clone(), torch.ones(1, device=device)

    def point_to_point() -> None:
        work = dist.isend(rows, dst=1) if rank == 0 else dist.irecv(rows, src=0)
        assert work is not None
        work.wait()

    start = _median(lambda: dist.all_reduce(one), device)

    def per_byte(run: Callable[[], object], num_bytes: int) -> float:
        return max(0.0, _median(run, device) - start) / num_bytes

    # Of a tensor that is whole on both in the end a rank sends half, twice in an all-reduce.
    return {
        "start": start,
        "all_reduce": per_byte(lambda: dist.all_reduce(rows), rows.nbytes),
        "all_gather": per_byte(lambda: dist.all_gather_into_tensor(layer, shard), shard.nbytes),
        "reduce_scatter": per_byte(lambda: dist.reduce_scatter_tensor(shard, layer), shard.nbytes),
        "point_to_point": _median(point_to_point, device) / rows.nbytes,
    }


def _crowded_pace(rank: int) -> float:
    """Return the first rank's time for a layer's worth of work alone over that beside the second rank."""
    layer = torch.nn.Sequential(
        torch.nn.LayerNorm(LAYER_WIDTH),
        torch.nn.Linear(LAYER_WIDTH, 3 * LAYER_WIDTH),
        torch.nn.SiLU(),
        torch.nn.Linear(3 * LAYER_WIDTH, LAYER_WIDTH),
    )
    rows = torch.randn(LAYER_WIDTH, LAYER_WIDTH)

    def work() -> None:
        for _ in range(LAYER_CALLS):
            layer(rows).sum().backward()

    alone = _median(work if rank == 0 else (lambda: None), torch.device("cpu"))
    together = _median(work, torch.device("cpu"))
    return min(1.0, alone / together)


def _median(run: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(ROUNDS + 1):
        dist.barrier()
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])
