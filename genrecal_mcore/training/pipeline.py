"""Passes hidden states from one pipeline stage of the teacher to the next, without a schedule and without a
flush.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from genrecal_mcore.parallel import Topology
from genrecal_mcore.status import RankStatus
from genrecal_mcore.transfer import Edge, TransferError, Unit, wait_for

MAX_SENDS_IN_FLIGHT = 2
"""One being received, one ready: enough for two stages to work at once, bounded so that memory is too."""
RECEIVES_AHEAD = 1
"""Receives that are posted before the unit in work is computed, so that the next travels meanwhile."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Travelling:
    """Hidden states of a unit on their way from one stage to the next."""

    unit: Unit
    hidden_states: torch.Tensor
    """The transport reads or fills it until the work is done."""
    work: dist.Work
    peer_rank: int


class PipelineLink:
    """This rank's two ends of the pipeline: the stage before it and the stage after it.

    Each pair of stages has a group of its own. In a group of all stages NCCL would put both ends into one
    queue, where sending a unit on had to wait for the receive of the next.
    """

    def __init__(
        self, topology: Topology, *, dtype: torch.dtype, timeout_s: float, status: RankStatus
    ) -> None:
        ends = topology.stage_edges.items()
        self.before = next((Edge(group=g, peer_rank=s) for (s, r), g in ends if r == topology.rank), None)
        self.after = next((Edge(group=g, peer_rank=r) for (s, r), g in ends if s == topology.rank), None)
        self.topology = topology
        self.dtype = dtype
        self.timeout_s = timeout_s
        self.status = status
        self.in_flight: deque[Travelling] = deque()

    def post(self, unit: Unit, shape: tuple[int, int, int]) -> Travelling:
        """Start to receive `[s, b, h]` of `shape` from the stage before, behind what was posted before."""
        assert self.before is not None
        hidden_states = torch.empty(shape, dtype=self.dtype, device=self.topology.device)
        peer = self.before.peer_rank
        with self._naming_both_ends(peer, unit, "did not come"):
            work = dist.irecv(hidden_states, src=peer, group=self.before.group)
        assert work is not None
        return Travelling(unit=unit, hidden_states=hidden_states, work=work, peer_rank=peer)

    def take(self, posted: Travelling) -> torch.Tensor:
        """Wait for what was posted and return it; raises `TransferError` when it is late."""
        self._finish(posted, "did not come")
        return posted.hidden_states

    def send(self, unit: Unit, hidden_states: torch.Tensor) -> None:
        """Start sending to the stage after; waits only when `MAX_SENDS_IN_FLIGHT` are under way."""
        assert self.after is not None
        while len(self.in_flight) >= MAX_SENDS_IN_FLIGHT:
            self._finish(self.in_flight.popleft(), "were not taken")
        hidden_states = hidden_states.contiguous()
        peer = self.after.peer_rank
        with self._naming_both_ends(peer, unit, "were not taken"):
            work = dist.isend(hidden_states, dst=peer, group=self.after.group)
        assert work is not None
        self.in_flight.append(Travelling(unit=unit, hidden_states=hidden_states, work=work, peer_rank=peer))

    def drain(self) -> None:
        """Wait until the stage after has everything."""
        while self.in_flight:
            self._finish(self.in_flight.popleft(), "were not taken")

    def _finish(self, travelling: Travelling, what: str) -> None:
        peer, unit = travelling.peer_rank, travelling.unit
        with (
            self._naming_both_ends(peer, unit, what),
            self.status.waiting(self.topology.layout.who(peer), unit),
        ):
            wait_for(travelling.work, timeout_s=self.timeout_s, device=self.topology.device)

    @contextmanager
    def _naming_both_ends(self, peer: int, unit: Unit, what: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise TransferError(
                f"{self.topology.who} waited for {self.topology.layout.who(peer)}: hidden states {what} for "
                f"{unit} within {self.timeout_s:g} s ({error}); look at that rank's log first"
            ) from error
