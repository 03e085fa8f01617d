"""The mix of lengths that the benchmarks of steps and of packing have in common."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Least and most tokens of a text."""

    question: tuple[int, int]
    answer: tuple[int, int]


RAGGED = Lengths(question=(64, 1024), answer=(4, 256))
