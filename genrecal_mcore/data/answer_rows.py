"""Says which of the payload's answer rows the teacher's input embeddings stand for.

A pure function of the run's seed, the step and the sample, so that neither the number of ranks nor a resume
changes it.
"""

from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch

from genrecal_mcore.data.recalibrator_layout import payload_starts
from genrecal_mcore.data.types import Microbatch


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerRows:
    """Some of the answer rows of a unit."""

    rows: torch.Tensor
    """`[k]`: their rows in the payload."""
    token_ids: torch.Tensor
    """`[k]`: the teacher's token at each."""


def replaced_answer_rows(
    batch: Microbatch, *, with_questions: bool, rate: float, seed: int, step: int
) -> AnswerRows:
    """Return the answer rows of a teacher microbatch, each chosen with probability `rate`; 1 chooses all."""
    rows: list[int] = []
    positions: list[int] = []
    starts = payload_starts(batch.answer_spans, with_questions=with_questions)
    samples = zip(batch.sample_ids, batch.bounds, batch.answer_spans, starts, strict=False)
    for sample_id, first, spans, boundary_rows in samples:
        draws = _draws(f"{seed}/{step}/{sample_id}", sum(end - start for start, end in spans))
        chosen = iter(draws < rate)
        for (start, end), boundary_row in zip(spans, boundary_rows, strict=True):
            kept = [j for j in range(end - start) if next(chosen)]
            rows += [boundary_row + 1 + j for j in kept]
            positions += [first + start + j for j in kept]
    return AnswerRows(rows=torch.tensor(rows, dtype=torch.int64), token_ids=batch.input_ids[0, positions])


def _draws(key: str, num_rows: int) -> np.ndarray:
    """Return numbers in [0, 1) that depend on the key alone."""
    digest = sha256(f"answer input/{key}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big"))).random(num_rows)
