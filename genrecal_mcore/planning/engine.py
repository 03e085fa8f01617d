"""A clock for ranks that compute and wait for each other: a discrete-event simulation in plain Python.

A rank is a generator that yields what it waits for, and what to call that time. Where ranks share cores,
those that compute at once share them evenly, which no package of events offers; the rest is a heap.
"""

import heapq
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from enum import StrEnum


class Spent(StrEnum):
    """What a rank's time goes into."""

    COMPUTING = "computing"
    STARVED = "waiting for hidden states or features"
    BLOCKED = "waiting until somebody takes what is done"
    APART = "waiting for its peers"


Times = dict[Spent, float]


@dataclass(frozen=True, slots=True)
class Compute:
    """So many seconds of computing, by `width` ranks that keep step."""

    seconds: float
    width: int = 1


@dataclass(slots=True, eq=False)
class Signal:
    """Something that happens once; whoever waits for it then goes on."""

    is_fired: bool = False
    waiting: "list[_Rank]" = field(default_factory=list)


Process = Generator[tuple[Compute | Signal, Spent], None, None]


@dataclass(slots=True, eq=False)
class _Rank:
    process: Process
    times: Times
    since: float = 0.0
    spent: Spent = Spent.COMPUTING
    width: int = 1


class Engine:
    """Runs ranks until none can go on.

    `cores` are shared by all that compute; None where everybody has a device of its own. When all cores are
    busy each is as fast as `crowded_pace` says, as they share caches and memory.
    """

    def __init__(self, cores: int | None = None, *, crowded_pace: float = 1.0) -> None:
        self.cores = cores
        self.crowded_pace = crowded_pace
        self.now = 0.0
        self._ready: deque[_Rank] = deque()
        self._computing: list[tuple[float, int, _Rank]] = []
        """With what `_done` will be when they are ready; the number keeps the order of equals."""
        self._timers: list[tuple[float, int, Signal]] = []
        self._num_computing = 0
        self._done = 0.0
        """Seconds of computing that a rank which never waits would have done: shared cores slow it down."""
        self._count = 0
        self._ranks: list[_Rank] = []

    def start(self, process: Process) -> Times:
        """Let a rank begin; returns the account of its time, which goes on."""
        rank = _Rank(process, dict.fromkeys(Spent, 0.0))
        self._ranks.append(rank)
        self._ready.append(rank)
        return rank.times

    def settle(self) -> None:
        """Bring all accounts up to the clock."""
        for rank in self._ranks:
            self._account(rank)

    def fire(self, signal: Signal) -> None:
        """Let those that wait for a signal go on."""
        signal.is_fired = True
        self._ready += signal.waiting
        signal.waiting.clear()

    def fire_at(self, signal: Signal, time: float) -> None:
        """Fire a signal when the clock says so, whatever computes meanwhile."""
        self._count += 1
        heapq.heappush(self._timers, (time, self._count, signal))

    def run(self) -> None:
        """Run until every rank has ended or waits for a signal that nobody will fire."""
        while True:
            while self._ready:
                self._go_on(self._ready.popleft())
            if self._timers and (not self._computing or self._timers[0][0] <= self._next_end()):
                time, _, signal = heapq.heappop(self._timers)
                self._done += (time - self.now) * self._pace()
                self.now = time
                self.fire(signal)
            elif self._computing:
                self.now = self._next_end()
                self._done, _, rank = heapq.heappop(self._computing)
                self._num_computing -= rank.width
                self._ready.append(rank)
            else:
                return

    def _go_on(self, rank: _Rank) -> None:
        """Run a rank up to what it must wait for."""
        self._account(rank)
        for what, spent in rank.process:
            if isinstance(what, Compute):
                if what.seconds == 0.0:
                    continue
                rank.spent, rank.width = spent, what.width
                self._num_computing += what.width
                self._count += 1
                heapq.heappush(self._computing, (self._done + what.seconds, self._count, rank))
                return
            if not what.is_fired:
                rank.spent = spent
                what.waiting.append(rank)
                return

    def _account(self, rank: _Rank) -> None:
        rank.times[rank.spent] += self.now - rank.since
        rank.since = self.now

    def _next_end(self) -> float:
        """Return when the first of those that compute is ready, as things are."""
        return self.now + (self._computing[0][0] - self._done) / self._pace()

    def _pace(self) -> float:
        """Return how fast each computing rank computes: its share of the cores, at most one."""
        if self.cores is None or self._num_computing <= 1:
            return 1.0
        busy = min(self._num_computing, self.cores)
        crowding = (busy - 1) / max(1, self.cores - 1)
        return busy / self._num_computing * (1.0 - (1.0 - self.crowded_pace) * crowding)
