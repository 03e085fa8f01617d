"""The one-way channel from teacher to student ranks: bounded, prefetching, counted, and with a deadline.

Order of messages on an edge from one tp rank: the header (tp rank 0 only), then that rank's rows. Both ends
walk the same plan, so nothing else needs to be said.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist

from genrecal_mcore.status import Activity, RankStatus, Unit
from genrecal_mcore.transfer.header import HEADER_NUM_INTS, Header, check_header, make_header
from genrecal_mcore.transfer.waiting import TransferError, wait_for


@dataclass(frozen=True, kw_only=True, slots=True)
class Edge:
    """One end of a connection: a two-rank group and the global rank at its other end."""

    group: dist.ProcessGroup
    peer_rank: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceivedUnit:
    """The features of one unit."""

    rows: torch.Tensor
    """`[t, h]` in the order of the plan."""
    teacher_waited_s: float
    """Seconds that the sending replica has waited for students so far."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sending:
    unit: Unit
    peer_rank: int
    works: list[dist.Work]
    buffers: list[torch.Tensor]
    """Kept until the works are done: the transport reads them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Receiving:
    expected: Header
    unit: Unit
    header: torch.Tensor
    parts: list[tuple[int, dist.Work | None, torch.Tensor, torch.Tensor]]
    """For each tp rank: its global rank, the work, the row numbers it fills, the buffer."""
    header_work: dist.Work
    header_rank: int


class FeatureSender:
    """The teacher's end, on one tp rank of the last stage."""

    def __init__(  # noqa: PLR0913 - the two ends of a wire have this many facts
        self,
        edges: Mapping[int, Edge],
        *,
        is_header_sender: bool,
        prefetch: int,
        timeout_s: float,
        who: Callable[[int], str],
        status: RankStatus,
    ) -> None:
        self.edges = edges
        self.is_header_sender = is_header_sender
        self.prefetch = prefetch
        self.timeout_s = timeout_s
        self.who = who
        self.status = status
        self.in_flight: deque[_Sending] = deque()
        self.waited_s = 0.0
        """Until students began to take what was ready for them."""
        self.bytes_sent = 0
        self.stream: torch.cuda.Stream | None = None

    def send(self, unit: Unit, rows: torch.Tensor, digest: bytes, *, num_rows: int) -> None:
        """Start sending this rank's `rows` `[t_local, h]` of a unit of `num_rows` rows.

        Waits while `prefetch` units are under way. Raises `TransferError` when the student does not take
        them.
        """
        while len(self.in_flight) >= self.prefetch:
            self._finish_oldest()
        edge = self.edges[unit.student_rank]
        buffers = []
        if self.is_header_sender:
            header = make_header(unit, digest, num_rows=num_rows, hidden_size=rows.shape[1])
            values = header.to_tensor()
            values[-1] = int(self.waited_s * 1e6)
            buffers.append(values.to(rows.device))
        if len(rows):
            buffers.append(rows.contiguous())
        with self._own_stream(rows.device), _naming_both_ends(self, edge.peer_rank, unit):
            works = [dist.isend(buffer, dst=edge.peer_rank, group=edge.group) for buffer in buffers]
        self.in_flight.append(
            _Sending(unit=unit, peer_rank=edge.peer_rank, works=[w for w in works if w], buffers=buffers)
        )
        self.bytes_sent += rows.numel() * rows.element_size()

    def drain(self) -> None:
        """Wait until the students have taken everything."""
        while self.in_flight:
            self._finish_oldest()

    def _finish_oldest(self) -> None:
        sending = self.in_flight.popleft()
        activity, started = Activity.WAIT, time.perf_counter()
        for work, buffer in zip(sending.works, sending.buffers, strict=True):
            with _waiting(self, sending.peer_rank, sending.unit, activity):
                wait_for(work, timeout_s=self.timeout_s, device=buffer.device)
            if activity is Activity.WAIT:
                self.waited_s += time.perf_counter() - started
            if self.is_header_sender:
                activity = Activity.TRANSFER  # the student has begun to take the unit

    def _own_stream(self, device: torch.device) -> AbstractContextManager:
        if device.type != "cuda":
            return nullcontext()
        if self.stream is None:
            self.stream = torch.cuda.Stream(device)
        self.stream.wait_stream(torch.cuda.current_stream(device))
        return torch.cuda.stream(self.stream)


class FeatureReceiver:
    """The student's end: takes each unit from all tp ranks of one teacher replica."""

    def __init__(  # noqa: PLR0913 - the two ends of a wire have this many facts
        self,
        edges: Mapping[tuple[int, int], Edge],
        *,
        timeout_s: float,
        hidden_size: int,
        dtype: torch.dtype,
        device: torch.device,
        who: Callable[[int], str],
        status: RankStatus,
    ) -> None:
        self.edges = edges
        self.timeout_s = timeout_s
        self.hidden_size = hidden_size
        self.dtype = dtype
        self.device = device
        self.who = who
        self.status = status
        self.posted: deque[_Receiving] = deque()
        self.waited_s = 0.0
        """For headers: until the teacher began to send what was needed."""
        self.bytes_received = 0
        """Payload and headers."""

    def post(self, unit: Unit, digest: bytes, row_owner: torch.Tensor, replica: int) -> None:
        """Post the receives for a unit whose row i comes from tp rank `row_owner[i]` `[t]` of `replica`.

        Raises `TransferError` when a sender is gone.
        """
        first = self.edges[replica, 0]
        header = torch.empty(HEADER_NUM_INTS, dtype=torch.int64, device=self.device)
        header_work = self._receive(header, first, unit)
        parts = []
        for (of_replica, tp_rank), edge in sorted(self.edges.items()):
            if of_replica != replica:
                continue
            numbers = (row_owner == tp_rank).nonzero().squeeze(1)
            buffer = torch.empty(len(numbers), self.hidden_size, dtype=self.dtype, device=self.device)
            work = self._receive(buffer, edge, unit) if len(numbers) else None
            parts.append((edge.peer_rank, work, numbers.to(self.device), buffer))
        expected = make_header(unit, digest, num_rows=len(row_owner), hidden_size=self.hidden_size)
        self.posted.append(
            _Receiving(
                expected=expected,
                unit=unit,
                header=header,
                parts=parts,
                header_work=header_work,
                header_rank=first.peer_rank,
            )
        )

    def take(self, unit: Unit) -> ReceivedUnit:
        """Wait for the oldest posted unit, which must be `unit`, and return its features.

        Raises `TransferError` after the timeout or when the sender died, and `RuntimeError` when its header
        shows another plan.
        """
        receiving = self.posted.popleft()
        assert receiving.unit == unit, f"posted {receiving.unit}, asked for {unit}"
        started = time.perf_counter()
        self._wait(receiving.header_work, receiving.header_rank, unit, Activity.WAIT)
        self.waited_s += time.perf_counter() - started
        found = Header.from_tensor(receiving.header)  # a host sync: nothing may be read before it is checked
        receiver, sender = self.who(dist.get_rank()), self.who(receiving.header_rank)
        check_header(found, receiving.expected, receiver=receiver, sender=sender)
        num_rows = receiving.expected.num_rows
        rows = torch.empty(num_rows, self.hidden_size, dtype=self.dtype, device=self.device)
        for peer_rank, work, numbers, buffer in receiving.parts:
            if work is not None:
                self._wait(work, peer_rank, unit, Activity.TRANSFER)
                rows.index_copy_(0, numbers, buffer)
        self.bytes_received += rows.numel() * rows.element_size() + receiving.header.numel() * 8
        return ReceivedUnit(rows=rows, teacher_waited_s=found.waited_us / 1e6)

    def _receive(self, buffer: torch.Tensor, edge: Edge, unit: Unit) -> dist.Work:
        with _naming_both_ends(self, edge.peer_rank, unit):
            work = dist.irecv(buffer, src=edge.peer_rank, group=edge.group)
        assert work is not None
        return work

    def _wait(self, work: dist.Work, peer_rank: int, unit: Unit, activity: Activity) -> None:
        with _waiting(self, peer_rank, unit, activity):
            wait_for(work, timeout_s=self.timeout_s, device=self.device)


@contextmanager
def _waiting(
    end: FeatureSender | FeatureReceiver, peer_rank: int, unit: Unit, activity: Activity
) -> Iterator[None]:
    """Record who is waited for while it lasts, and name both ends when it fails."""
    with (
        _naming_both_ends(end, peer_rank, unit),
        end.status.waiting(end.who(peer_rank), unit, activity),
    ):
        yield


@contextmanager
def _naming_both_ends(end: FeatureSender | FeatureReceiver, peer_rank: int, unit: Unit) -> Iterator[None]:
    """Turn what the transport raises into a `TransferError` that says who waited for whom, and for what."""
    started = time.perf_counter()
    try:
        yield
    except RuntimeError as error:
        what = "did not come" if isinstance(end, FeatureReceiver) else "were not taken"
        raise TransferError(
            f"{end.who(dist.get_rank())} waited {time.perf_counter() - started:.1f} s for "
            f"{end.who(peer_rank)}: features of {unit} {what} ({error}); look at that rank's log first, then "
            "at transfer.timeout_s"
        ) from error
