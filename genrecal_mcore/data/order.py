"""The order of samples: a pure function of seed, epoch and data, which knows nothing of ranks.

The state of a loader is one integer, the position in this order. A step takes the next positions, however
many ranks there are; which of them computes a sample is decided by length, so that all have as much to do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from heapq import heapify, heapreplace

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchShape:
    """How the samples of a step are cut into microbatches and dealt out to student ranks."""

    micro_batch_size: int
    """Samples of a unit on average."""
    accumulation_steps: int
    student_dp: int

    @property
    def samples_per_step(self) -> int:
        """Samples that one optimizer step consumes over all ranks."""
        return self.micro_batch_size * self.units_per_step

    @property
    def units_per_step(self) -> int:
        """Units that one optimizer step consists of."""
        return self.accumulation_steps * self.student_dp


@dataclass(frozen=True, slots=True)
class SampleOrder:
    """Every epoch is a permutation of all samples; positions count on over epochs."""

    tokens: Sequence[int]
    """Of each sample: what decides which unit it goes to."""
    seed: int
    digest: str
    """Digest of the data: other data, another order."""

    def index_at(self, position: int) -> int:
        """Return the number of the sample at a position in the order."""
        epoch, offset = divmod(position, len(self.tokens))
        return int(_permutation(len(self.tokens), self.seed, self.digest, epoch)[offset])


@lru_cache(maxsize=2)
def _permutation(num_samples: int, seed: int, digest: str, epoch: int) -> np.ndarray:
    key = sha256(f"{seed}/{epoch}/{digest}".encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(key[:16], "big")))
    return generator.permutation(num_samples)


def samples_of_unit(
    order: SampleOrder, *, step: int, microbatch: int, student_rank: int, batch: BatchShape
) -> tuple[int, ...]:
    """Return the samples of one unit, in the order of their positions."""
    first = step * batch.samples_per_step
    samples = tuple(order.index_at(position) for position in range(first, first + batch.samples_per_step))
    tokens = tuple(order.tokens[sample] for sample in samples)
    dealt = deal_by_length(tokens, num_units=batch.units_per_step)
    return tuple(samples[i] for i in dealt[microbatch * batch.student_dp + student_rank])


@lru_cache(maxsize=8)
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
