"""Chooses few combinations of axis values so that every pair of values of any two axes occurs together."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, product
from typing import Any

Case = dict[str, Any]
Pair = tuple[tuple[str, int], tuple[str, int]]
"""Two axis names, each with the index of one of its values."""


def all_cases(axes: Mapping[str, Sequence[Any]], is_valid: Callable[[Case], bool]) -> list[Case]:
    """Return the full product of the axes, without the cases that make no sense."""
    cases = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    return [case for case in cases if is_valid(case)]


def pairwise_cases(axes: Mapping[str, Sequence[Any]], is_valid: Callable[[Case], bool]) -> list[Case]:
    """Return a small set of valid cases that holds every pair of values that any valid case holds.

    Greedy and deterministic: always the case that covers the most pairs still missing; among equals the one
    whose values were chosen least so far.
    """
    pairs_of_case = [(case, _pairs(axes, case)) for case in all_cases(axes, is_valid)]
    missing = set().union(*(pairs for _, pairs in pairs_of_case))
    chosen: list[Case] = []

    def usefulness(entry: tuple[Case, set[Pair]]) -> tuple[int, int]:
        case, pairs = entry
        num_used = sum(other[name] == value for other in chosen for name, value in case.items())
        return len(pairs & missing), -num_used

    while missing:
        case, covered = max(pairs_of_case, key=usefulness)
        chosen.append(case)
        missing -= covered
    return chosen


def _pairs(axes: Mapping[str, Sequence[Any]], case: Case) -> set[Pair]:
    indices = [(name, list(values).index(case[name])) for name, values in axes.items()]
    return set(combinations(indices, 2))
