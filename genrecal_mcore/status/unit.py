"""The unit of work, by which every rank says where it is."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """One microbatch of one student rank in one step: what one transfer carries."""

    step: int
    microbatch: int
    student_rank: int

    def __str__(self) -> str:
        return f"step {self.step}, microbatch {self.microbatch}, student {self.student_rank}"
