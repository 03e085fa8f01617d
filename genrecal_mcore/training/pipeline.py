"""Passes hidden states from one pipeline stage of the teacher to the next, without a schedule and without a
flush.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from genrecal_mcore.parallel import Topology
from genrecal_mcore.status import RankStatus
from genrecal_mcore.transfer import TransferError, Unit, wait_for

MAX_SENDS_IN_FLIGHT = 2
"""One being received, one ready: enough for two stages to work at once, bounded so that memory is too."""


class PipelineLink:
    """This rank's two ends of the pipeline: the stage before it and the stage after it."""

    def __init__(
        self, topology: Topology, *, dtype: torch.dtype, timeout_s: float, status: RankStatus
    ) -> None:
        assert topology.teacher_groups is not None
        self.topology = topology
        self.group = topology.teacher_groups.pp
        self.dtype = dtype
        self.timeout_s = timeout_s
        self.status = status
        self.in_flight: deque[tuple[dist.Work, torch.Tensor, Unit]] = deque()

    def receive(self, unit: Unit, shape: tuple[int, int, int]) -> torch.Tensor:
        """Wait for `[s, b, h]` of `shape` from the previous stage; raises `TransferError` when it is late."""
        hidden_states = torch.empty(shape, dtype=self.dtype, device=self.topology.device)
        peer = self._peer(-1)
        with self._naming_both_ends(peer, unit, "hidden states did not come"):
            work = dist.irecv(hidden_states, src=peer, group=self.group)
            assert work is not None
            self._wait(work, peer, unit)
        return hidden_states

    def send(self, unit: Unit, hidden_states: torch.Tensor) -> None:
        """Start sending to the stage after; waits only when `MAX_SENDS_IN_FLIGHT` are under way."""
        while len(self.in_flight) >= MAX_SENDS_IN_FLIGHT:
            self._finish_oldest()
        hidden_states = hidden_states.contiguous()
        peer = self._peer(1)
        with self._naming_both_ends(peer, unit, "hidden states were not taken"):
            work = dist.isend(hidden_states, dst=peer, group=self.group)
        assert work is not None
        self.in_flight.append((work, hidden_states, unit))

    def drain(self) -> None:
        """Wait until the stage after has everything."""
        while self.in_flight:
            self._finish_oldest()

    def _finish_oldest(self) -> None:
        work, _, unit = self.in_flight.popleft()
        with self._naming_both_ends(self._peer(1), unit, "hidden states were not taken"):
            self._wait(work, self._peer(1), unit)

    def _wait(self, work: dist.Work, peer: int, unit: Unit) -> None:
        who = self.topology.layout.who(peer)
        with self.status.waiting(who, unit):
            wait_for(work, timeout_s=self.timeout_s, device=self.topology.device)

    def _peer(self, step: int) -> int:
        return dist.get_global_rank(self.group, self.group.rank() + step)

    @contextmanager
    def _naming_both_ends(self, peer: int, unit: Unit, what: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise TransferError(
                f"{self.topology.who} waited for {self.topology.layout.who(peer)}: {what} for step "
                f"{unit.step}, microbatch {unit.microbatch} within {self.timeout_s:g} s ({error}); "
                "look at that rank's log first"
            ) from error
