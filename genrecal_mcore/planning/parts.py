"""What memory is made of: the parts of a rank's bytes, and the kinds of rank that have them."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Part(StrEnum):
    """One kind of bytes on a rank; the value is what people read, the order that of the table."""

    LANGUAGE_BODY = "language body, weights"
    VISION = "vision tower and projector, weights"
    STUDENT_FROZEN = "student, weights that are frozen"
    STUDENT_LEARNING = "student, weights that learn"
    RECALIBRATOR = "Recalibrator, weights"
    TEACHER_HEAD = "teacher's head"
    GRADIENTS = "gradients, sharded"
    OPTIMIZER = "AdamW state"
    GATHERED_WEIGHTS = "weights gathered by FSDP"
    WHOLE_GRADIENTS = "gradients before sharding"
    PIPELINE = "pipeline buffers"
    TRANSFER = "transfer buffers"
    LOSS = "loss budget"
    ACTIVATIONS = "activations (estimate)"


@dataclass(frozen=True, kw_only=True, slots=True)
class RankKind:
    """Ranks that need the same memory."""

    name: str
    """E.g. `teacher stage 0`."""
    ranks: range
    parts: Mapping[Part, int]
    """Bytes while the rank trains; parts that it does not have are absent."""
    loading_bytes: int
    """Bytes before it trains, with its weights whole on the device."""

    @property
    def label(self) -> str:
        """Name and ranks, e.g. `teacher stage 0, ranks 0-7`."""
        if len(self.ranks) == 1:
            return f"{self.name}, rank {self.ranks.start}"
        return f"{self.name}, ranks {self.ranks.start}-{self.ranks.stop - 1}"

    @property
    def total_bytes(self) -> int:
        """Sum of the parts."""
        return sum(self.parts.values())

    @property
    def needed_bytes(self) -> int:
        """The most that the rank holds at any time."""
        return max(self.total_bytes, self.loading_bytes)

    @property
    def largest_part(self) -> Part:
        """The part with the most bytes."""
        return max(self.parts, key=self.parts.__getitem__)
