"""Measures how far this rank's clock is from rank 0's: Cristian's algorithm over a process group.

Rank r asks, rank 0 answers with its time, which lies between question and answer: the offset is known to half
the round trip. Of several rounds the shortest says most (F. Cristian, 1989).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

NUM_ROUNDS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ClockRound:
    """One question and its answer."""

    asked_ns: int
    """By the clock that asks."""
    said_ns: int
    """By the clock that answers."""
    answered_ns: int
    """By the clock that asks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClockOffset:
    """What to add to a time of one clock to get that of another."""

    offset_ns: int
    uncertainty_ns: int
    """The true offset is no further away than this."""


def clock_offset(rounds: Sequence[ClockRound]) -> ClockOffset:
    """Return what the shortest round says.

    Where the clocks may be one they are taken to be: ranks of a host share its clock, and those of hosts that
    started at different times are seconds apart.
    """
    best = min(rounds, key=lambda one: one.answered_ns - one.asked_ns)
    uncertainty_ns = -(-(best.answered_ns - best.asked_ns) // 2)
    offset_ns = best.said_ns - (best.asked_ns + best.answered_ns) // 2
    if abs(offset_ns) <= uncertainty_ns:
        return ClockOffset(offset_ns=0, uncertainty_ns=uncertainty_ns + abs(offset_ns))
    return ClockOffset(offset_ns=offset_ns, uncertainty_ns=uncertainty_ns)


def exchange_clocks(
    group: dist.ProcessGroup, *, clock: Callable[[], int] = time.perf_counter_ns
) -> ClockOffset:
    """Return the offset to the clock of the group's first rank (collective; the group's backend is gloo)."""
    if group.rank() == 0:
        for peer in range(1, group.size()):
            _answer(group, peer, clock)
        return ClockOffset(offset_ns=0, uncertainty_ns=0)
    return clock_offset([_ask(group, clock) for _ in range(NUM_ROUNDS)])


def _answer(group: dist.ProcessGroup, peer: int, clock: Callable[[], int]) -> None:
    message = torch.zeros(1, dtype=torch.int64)
    rank = dist.get_global_rank(group, peer)
    for _ in range(NUM_ROUNDS):
        dist.recv(message, src=rank, group=group)
        message[0] = clock()
        dist.send(message, dst=rank, group=group)


def _ask(group: dist.ProcessGroup, clock: Callable[[], int]) -> ClockRound:
    message = torch.zeros(1, dtype=torch.int64)
    rank = dist.get_global_rank(group, 0)
    asked_ns = clock()
    dist.send(message, dst=rank, group=group)
    dist.recv(message, src=rank, group=group)
    return ClockRound(asked_ns=asked_ns, said_ns=int(message), answered_ns=clock())
