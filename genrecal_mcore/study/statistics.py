"""Means over seeds and paired differences to the reference arm; pure, without rounding."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import Any

NUM_ERRORS = 2
"""A difference counts as shown only beyond this many standard errors."""

Result = Mapping[str, Any]
"""A line of `results.jsonl`."""
Place = tuple[str, str]
"""Pair and task: what arms are compared on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """To the reference arm, seed by seed."""

    mean: float
    standard_error: float | None
    """None for a single seed."""
    num: int
    """Seeds that both arms have."""

    @property
    def is_shown(self) -> bool:
        """Whether it is beyond two standard errors."""
        return self.standard_error is not None and abs(self.mean) > NUM_ERRORS * self.standard_error


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One arm on one pair and task."""

    place: Place
    arm: str
    num_runs: int
    """Models that were asked: one where every seed has the same."""
    num_failed: int
    mean: float | None
    """Of accuracies, 0 to 1; None where every run failed."""
    deviation: float | None
    """Standard deviation over seeds; None for a single run."""
    difference: Difference | None
    """None for the reference itself, and where no seed has both."""


def rows_of(results: Iterable[Result], *, reference: str) -> list[Row]:
    """Return a row for each arm, pair and task of the results, in their order."""
    of_arm: dict[tuple[Place, str], list[Result]] = {}
    for result in results:
        of_arm.setdefault(((result["pair"], result["task"]), result["arm"]), []).append(result)
    return [
        _row(place, arm, lines, of_arm.get((place, reference), ()) if arm != reference else ())
        for (place, arm), lines in of_arm.items()
    ]


def _row(place: Place, arm: str, lines: Sequence[Result], reference: Sequence[Result]) -> Row:
    values, others = _values(lines), _values(reference)
    asked = {line["run"] for line in lines if "value" in line}
    return Row(
        place=place,
        arm=arm,
        num_runs=len(asked),
        num_failed=len(lines) - len(values),
        mean=fmean(values.values()) if values else None,
        deviation=stdev(values.values()) if len(asked) > 1 else None,
        difference=_difference([values[seed] - others[seed] for seed in values if seed in others]),
    )


def _values(lines: Iterable[Result]) -> dict[int, float]:
    return {line["seed"]: line["value"] for line in lines if "value" in line}


def _difference(differences: Sequence[float]) -> Difference | None:
    if not differences:
        return None
    num = len(differences)
    error = stdev(differences) / sqrt(num) if num > 1 else None
    return Difference(mean=fmean(differences), standard_error=error, num=num)
