"""The order of samples: a pure function of seed, epoch and data, which knows nothing of ranks.

The state of a loader is one integer, the position in this order. A step takes the next positions, however
many ranks there are; into how many units they are cut, and which rank computes a sample, is decided by
length, so that units are full and all ranks have as much to do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import heapify, heapreplace
from typing import Protocol

import numpy as np

from genrecal_mcore.data.mixture import Rounds, SourceShare


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchShape:
    """How the samples of a step are cut into microbatches and dealt out to student ranks."""

    micro_batch_size: int
    """Samples of a unit on average, where no `unit_tokens` says how many it holds."""
    accumulation_steps: int
    student_dp: int
    unit_tokens: int | None = None
    """Most tokens of a unit; at least those of the longest sample."""

    @property
    def samples_per_step(self) -> int:
        """Samples that one optimizer step consumes over all ranks."""
        return self.micro_batch_size * self.accumulation_steps * self.student_dp


class StepOrder(Protocol):
    """What decides which samples a step takes."""

    @property
    def tokens(self) -> np.ndarray:
        """`[n]` of each sample: what decides which unit it goes to."""

    def samples_of_step(self, step: int, batch: BatchShape) -> np.ndarray:
        """Return the numbers of a step's samples, in order."""

    def __hash__(self) -> int:
        """Tell orders apart."""


class SampleOrder:
    """Which sample stands at each position, endlessly, and which unit of a step computes it.

    `tokens` `[n]`, of each sample, decide which unit it goes to. Without `shares` every epoch is a
    permutation of all samples; with them only theirs are drawn, by their weights if they have such. Samples
    are sorted by length among those of a `window`: from short to long, and back in the next, so that
    neighbours are about as long. A window knows nothing of steps, as these change with the ranks.
    """

    def __init__(
        self,
        tokens: Sequence[int] | np.ndarray,
        seed: int,
        digest: str,
        window: int = 1,
        shares: Sequence[SourceShare] = (),
    ) -> None:
        self.tokens = np.asarray(tokens)
        self.window = window
        everything = SourceShare(name="all", samples=np.arange(len(tokens), dtype=np.int32), weight=None)
        self.rounds = Rounds(shares or [everything], seed=seed, digest=digest)
        self.identity = _identity(digest, window, self.rounds.quotas)
        """What a checkpoint remembers, so that no run goes on in another order."""
        self._round = lru_cache(maxsize=2)(self.rounds.draw)
        self._window = lru_cache(maxsize=64)(self._sort_window)

    def index_at(self, position: int) -> int:
        """Return the number of the sample at a position in the order."""
        return int(self._from(position)[0])

    def samples_of_step(self, step: int, batch: BatchShape) -> np.ndarray:
        """Return the numbers `[samples_per_step]` of a step's samples, in the order of their positions."""
        return self.samples_at(step * batch.samples_per_step, batch.samples_per_step)

    def samples_at(self, position: int, count: int) -> np.ndarray:
        """Return the numbers `[count]` of the samples from a position on."""
        parts = []
        while count:
            parts.append(self._from(position)[:count])
            position, count = position + len(parts[-1]), count - len(parts[-1])
        return np.concatenate(parts)

    def _from(self, position: int) -> np.ndarray:
        """Return the samples from a position to the end of its window; of its round, if nothing is sorted."""
        number, offset = divmod(position, self.rounds.size)
        if self.window == 1:
            return self._round(number)[offset:]
        window, offset = divmod(offset, self.window)
        return self._window(number, window)[offset:]

    def _sort_window(self, number: int, window: int) -> np.ndarray:
        samples = self._round(number)[window * self.window : (window + 1) * self.window]
        lengths = self.tokens[samples]
        return samples[np.argsort(-lengths if window % 2 else lengths, kind="stable")]


@dataclass(frozen=True, eq=False, slots=True)
class OnceOrder:
    """Some samples, each once: a pass over them instead of epochs; its last step may have fewer."""

    tokens: np.ndarray
    """`[n]` of each sample of the data: what decides which unit it goes to."""
    numbers: np.ndarray
    """The samples, in order."""

    def num_steps(self, batch: BatchShape) -> int:
        """Return how many steps take all of them."""
        return -(-len(self.numbers) // batch.samples_per_step)

    def samples_of_step(self, step: int, batch: BatchShape) -> np.ndarray:
        """Return the numbers of a step's samples, in order."""
        size = batch.samples_per_step
        return self.numbers[step * size : (step + 1) * size]


def _identity(digest: str, window: int, quotas: Sequence[int]) -> str:
    parts = [digest]
    if window > 1:
        parts.append(f"length_window {window}")
    if quotas:
        parts.append(f"shares {' '.join(map(str, quotas))} of {sum(quotas)}")
    return ", ".join(parts)


def samples_of_unit(
    order: StepOrder, *, step: int, microbatch: int, student_rank: int, batch: BatchShape
) -> tuple[int, ...]:
    """Return the samples of one unit, in the order of their positions."""
    return units_of_step(order, step=step, batch=batch)[microbatch * batch.student_dp + student_rank]


def units_of_step(order: StepOrder, *, step: int, batch: BatchShape) -> tuple[tuple[int, ...], ...]:
    """Return the samples of each unit of a step, by microbatch, then student rank."""
    return _dealt_out(order, step, batch)


@lru_cache(maxsize=4)
def _dealt_out(order: StepOrder, step: int, batch: BatchShape) -> tuple[tuple[int, ...], ...]:
    """Deal a step out once for all its units; orders are told apart by identity."""
    samples = order.samples_of_step(step, batch)
    dealt = cut_into_units(tuple(order.tokens[samples].tolist()), batch)
    numbers = samples.tolist()
    return tuple(tuple(numbers[i] for i in unit) for unit in dealt)


def num_microbatches(order: StepOrder, *, step: int, batch: BatchShape) -> int:
    """Return how many microbatches a step has, the same on every student rank."""
    if batch.unit_tokens is None:
        return batch.accumulation_steps
    return len(units_of_step(order, step=step, batch=batch)) // batch.student_dp


def cut_into_units(tokens: tuple[int, ...], batch: BatchShape) -> tuple[tuple[int, ...], ...]:
    """Return the samples of each unit of a step, by number; first those of microbatch 0, by student rank.

    Under `unit_tokens` there are as few microbatches as hold the step's tokens. A deal to as many units as
    samples puts each alone, so units never outnumber the samples of a full step and none is empty; those of
    a step that is not full may be.
    """
    if batch.unit_tokens is None:
        return deal_by_length(tokens, num_units=batch.accumulation_steps * batch.student_dp)
    fewest = -(-sum(tokens) // (batch.unit_tokens * batch.student_dp))
    for microbatches in range(max(1, fewest), -(-len(tokens) // batch.student_dp) + 1):
        units = deal_by_length(tokens, num_units=microbatches * batch.student_dp)
        if max(sum(tokens[i] for i in unit) for unit in units) <= batch.unit_tokens:
            return units
    raise ValueError(
        f"a sample of {max(tokens)} tokens is longer than a unit of {batch.unit_tokens}; raise "
        "train.micro_batch_tokens or lower data.max_tokens"
    )


def deal_by_length(tokens: tuple[int, ...], *, num_units: int) -> tuple[tuple[int, ...], ...]:
    """Deal a step's samples, by number, out to units: the longest first, each to the unit with fewest tokens.

    No unit ends up with more than 4/3 of what the best deal gives its fullest (Graham, 1969). With m samples
    a unit on average none gets more than m times the longest: a sample that would overfill the emptiest unit
    finds at least m in every one, so it would be one more than there are. Every unit gets a sample where
    there are as many as units.
    """
    units: list[list[int]] = [[] for _ in range(num_units)]
    loads = [(0, unit) for unit in range(num_units)]
    heapify(loads)
    for sample in sorted(range(len(tokens)), key=lambda i: (-tokens[i], i)):
        load, unit = loads[0]
        units[unit].append(sample)
        heapreplace(loads, (load + tokens[sample], unit))
    return tuple(tuple(sorted(unit)) for unit in units)
