"""The order of samples: a pure function of seed, epoch and data, which knows nothing of ranks.

The state of a loader is one integer, the position in this order.
"""

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchShape:
    """How the samples of a step are cut into microbatches and dealt out to student ranks."""

    micro_batch_size: int
    accumulation_steps: int
    student_dp: int

    @property
    def samples_per_step(self) -> int:
        """Samples that one optimizer step consumes over all ranks."""
        return self.micro_batch_size * self.accumulation_steps * self.student_dp


@dataclass(frozen=True, slots=True)
class SampleOrder:
    """Every epoch is a permutation of all samples; positions count on over epochs."""

    num_samples: int
    seed: int
    digest: str
    """Digest of the data: other data, another order."""

    def index_at(self, position: int) -> int:
        """Return the number of the sample at a position in the order."""
        epoch, offset = divmod(position, self.num_samples)
        return int(_permutation(self.num_samples, self.seed, self.digest, epoch)[offset])


@lru_cache(maxsize=2)
def _permutation(num_samples: int, seed: int, digest: str, epoch: int) -> np.ndarray:
    key = sha256(f"{seed}/{epoch}/{digest}".encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(key[:16], "big")))
    return generator.permutation(num_samples)


def samples_of_unit(
    order: SampleOrder, *, step: int, microbatch: int, student_rank: int, batch: BatchShape
) -> tuple[int, ...]:
    """Return the samples of one unit: consecutive positions, ranks side by side inside a microbatch."""
    first = step * batch.samples_per_step
    first += (microbatch * batch.student_dp + student_rank) * batch.micro_batch_size
    return tuple(order.index_at(position) for position in range(first, first + batch.micro_batch_size))
