"""Where simulated ranks meet: messages over links that carry one at a time, and barriers."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from genrecal_mcore.planning.engine import Engine, Signal


@dataclass(slots=True, eq=False)
class Link:
    """One direction of a device's connection."""

    free_at: float = 0.0


@dataclass(slots=True, eq=False)
class Message:
    """Data that begins to travel once one side has offered it and the other asked, as in gloo and NCCL."""

    arrived: Signal = field(default_factory=Signal)
    links: Sequence[Link] = ()
    """What it travels over, once it is offered."""
    seconds: float = 0.0
    is_asked: bool = False

    def offer(self, engine: Engine, *, seconds: float, links: Sequence[Link]) -> None:
        """Be ready to be sent: it takes so long, and each of the links for itself."""
        self.seconds, self.links = seconds, links
        if self.is_asked:
            self._travel(engine)

    def ask(self, engine: Engine) -> None:
        """Be ready to be received."""
        self.is_asked = True
        if self.links:
            self._travel(engine)

    def _travel(self, engine: Engine) -> None:
        ends_at = engine.now
        for link in self.links:
            ends_at = max(ends_at, link.free_at)
        ends_at += self.seconds
        for link in self.links:
            link.free_at = ends_at
        engine.fire_at(self.arrived, ends_at)


@dataclass(slots=True, eq=False)
class Barrier:
    """Where every rank of a group must be before any goes on, over and over."""

    num_ranks: int
    num_waiting: int = 0
    passed: Signal = field(default_factory=Signal)

    def arrive(self, engine: Engine) -> Signal:
        """Return what to wait for."""
        passed = self.passed
        self.num_waiting += 1
        if self.num_waiting == self.num_ranks:
            self.num_waiting, self.passed = 0, Signal()
            engine.fire(passed)
        return passed
