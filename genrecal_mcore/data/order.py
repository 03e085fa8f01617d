"""The order of samples: a pure function of seed, epoch and data, which knows nothing of ranks.

The state of a loader is one integer, the position in this order. A step takes the next positions, however
many ranks there are; into how many units they are cut, and which rank computes a sample, is decided by
length, so that units are full and all ranks have as much to do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from heapq import heapify, heapreplace
from typing import Protocol

import numpy as np


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
    def tokens(self) -> Sequence[int]:
        """Of each sample: what decides which unit it goes to."""

    def samples_of_step(self, step: int, batch: BatchShape) -> tuple[int, ...]:
        """Return the numbers of a step's samples, in order."""


@dataclass(frozen=True, slots=True)
class SampleOrder:
    """Every epoch is a permutation of all samples; positions count on over epochs."""

    tokens: Sequence[int] = field(compare=False)
    """Of each sample: what decides which unit it goes to."""
    seed: int
    digest: str
    """Digest of the data: other data, another order."""
    window: int = 1
    """Samples that are sorted by length among themselves: from short to long, and back in the next window, so
    that neighbours are about as long. Knows nothing of steps, as these change with the ranks.
    """

    def index_at(self, position: int) -> int:
        """Return the number of the sample at a position in the order."""
        epoch, offset = divmod(position, len(self.tokens))
        number, offset = divmod(offset, self.window)
        return _window(self, epoch, number)[offset]

    @property
    def identity(self) -> str:
        """What a checkpoint remembers, so that no run goes on in another order."""
        return self.digest if self.window == 1 else f"{self.digest}, length_window {self.window}"

    def samples_of_step(self, step: int, batch: BatchShape) -> tuple[int, ...]:
        """Return the numbers of a step's samples, in the order of their positions."""
        size = batch.samples_per_step
        return tuple(self.index_at(position) for position in range(step * size, (step + 1) * size))


@dataclass(frozen=True, slots=True)
class OnceOrder:
    """Some samples, each once: a pass over them instead of epochs; its last step may have fewer."""

    tokens: Sequence[int] = field(compare=False)
    """Of each sample of the data: what decides which unit it goes to."""
    numbers: tuple[int, ...]
    """The samples, in order."""

    def num_steps(self, batch: BatchShape) -> int:
        """Return how many steps take all of them."""
        return -(-len(self.numbers) // batch.samples_per_step)

    def samples_of_step(self, step: int, batch: BatchShape) -> tuple[int, ...]:
        """Return the numbers of a step's samples, in order."""
        size = batch.samples_per_step
        return self.numbers[step * size : (step + 1) * size]


@lru_cache(maxsize=2)
def _permutation(num_samples: int, seed: int, digest: str, epoch: int) -> np.ndarray:
    key = sha256(f"{seed}/{epoch}/{digest}".encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(key[:16], "big")))
    return generator.permutation(num_samples)


@lru_cache(maxsize=64)
def _window(order: SampleOrder, epoch: int, number: int) -> tuple[int, ...]:
    """Return the samples of one window of an epoch, in order."""
    permutation = _permutation(len(order.tokens), order.seed, order.digest, epoch)
    samples = permutation[number * order.window : (number + 1) * order.window].tolist()
    if order.window > 1:
        samples.sort(key=order.tokens.__getitem__, reverse=number % 2 == 1)
    return tuple(samples)


def samples_of_unit(
    order: StepOrder, *, step: int, microbatch: int, student_rank: int, batch: BatchShape
) -> tuple[int, ...]:
    """Return the samples of one unit, in the order of their positions."""
    return units_of_step(order, step=step, batch=batch)[microbatch * batch.student_dp + student_rank]


def units_of_step(order: StepOrder, *, step: int, batch: BatchShape) -> tuple[tuple[int, ...], ...]:
    """Return the samples of each unit of a step, by microbatch, then student rank."""
    samples = order.samples_of_step(step, batch)
    dealt = cut_into_units(tuple(order.tokens[sample] for sample in samples), batch)
    return tuple(tuple(samples[i] for i in unit) for unit in dealt)


def num_microbatches(order: StepOrder, *, step: int, batch: BatchShape) -> int:
    """Return how many microbatches a step has, the same on every student rank."""
    if batch.unit_tokens is None:
        return batch.accumulation_steps
    tokens = tuple(order.tokens[sample] for sample in order.samples_of_step(step, batch))
    return len(cut_into_units(tokens, batch)) // batch.student_dp


@lru_cache(maxsize=8)
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
