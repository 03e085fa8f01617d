"""How the samples of an endless order are drawn: each source in permutations of its own, in fixed shares.

An order is made of rounds of equal size. Without weights a round is an epoch: a permutation of all samples.
With weights it is a block of positions of which each source takes a fixed number, so that the source and the
sample at a position follow from the position alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

import numpy as np

BLOCK_SIZE = 65_536
"""Positions of a block: in each, and so over any number of them, a share is off by less than 1 / 65,536."""
KEPT_PERMUTATIONS = 2
"""Of each source: a step can lie on both sides of the end of an epoch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceShare:
    """What is drawn of a source, and the weight that it is drawn with."""

    name: str
    samples: np.ndarray
    """`[n]` int32 numbers, at least one."""
    weight: float | None
    """All sources have one, or none has, and then every sample is drawn once an epoch."""


class Cycle:
    """Some samples, `[n]` int32, over and over, in another permutation each time."""

    def __init__(self, samples: np.ndarray, *, seed: int, name: str) -> None:
        self.samples = samples
        self.seed = seed
        self.name = name
        self._epoch = lru_cache(maxsize=KEPT_PERMUTATIONS)(self._make_epoch)

    def draw(self, start: int, count: int) -> np.ndarray:
        """Return the `count` samples from place `start` of the endless order on, `[count]` int32."""
        parts = []
        while count:
            epoch, offset = divmod(start, len(self.samples))
            part = self._epoch(epoch)[offset : offset + count]
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _make_epoch(self, epoch: int) -> np.ndarray:
        return generator_of(self.seed, str(epoch), self.name).permutation(self.samples)


class Rounds:
    """The rounds of an order: every sample once, or blocks in which every source has its share.

    Raises `ValueError` for a source that is too small a share to be drawn at all.
    """

    def __init__(self, shares: Sequence[SourceShare], *, seed: int, digest: str) -> None:
        self.seed = seed
        self.digest = digest
        self.quotas = quotas_of(shares)
        """How many samples of a block each source takes; empty where there are no weights."""
        self._cycles = [
            Cycle(share.samples, seed=seed, name=f"{digest}/{number}") for number, share in enumerate(shares)
        ]
        if not self.quotas:
            samples = np.concatenate([share.samples for share in shares])
            self._cycles = [Cycle(samples, seed=seed, name=digest)]
        self.size = sum(self.quotas) or len(self._cycles[0].samples)

    def draw(self, number: int) -> np.ndarray:
        """Return the samples of a round in order, `[size]` int32."""
        quotas = self.quotas or (self.size,)
        drawn = [cycle.draw(number * quota, quota) for cycle, quota in zip(self._cycles, quotas, strict=True)]
        if len(drawn) == 1:
            return drawn[0]
        source_of = np.repeat(np.arange(len(drawn), dtype=np.int16), self.quotas)
        generator_of(self.seed, f"block {number}", self.digest).shuffle(source_of)
        samples = np.empty(self.size, dtype=np.int32)
        for source, part in enumerate(drawn):
            samples[source_of == source] = part
        return samples


def quotas_of(shares: Sequence[SourceShare], block_size: int = BLOCK_SIZE) -> tuple[int, ...]:
    """Return how many positions of a block each source takes, by largest remainder (Hamilton's method).

    There are none where sources have no weights.
    """
    given = [share.weight for share in shares if share.weight is not None]
    if not given:
        return ()
    weights = np.array(given)
    exact = weights / weights.sum() * block_size
    quotas = np.floor(exact).astype(np.int64)
    largest = np.argsort(quotas - exact, kind="stable")  # the earlier source first where two are equal
    quotas[largest[: block_size - quotas.sum()]] += 1
    for share, quota in zip(shares, quotas, strict=True):
        if quota == 0:
            raise ValueError(
                f"data.sources: {share.name} has weight {share.weight} of {weights.sum():g}, which is less "
                f"than one sample in {block_size}; raise it or leave the source out"
            )
    return tuple(quotas.tolist())


def generator_of(seed: int, round_name: str, name: str) -> np.random.Generator:
    """Return the generator of one round of what has a name."""
    key = sha256(f"{seed}/{round_name}/{name}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(key[:16], "big")))
