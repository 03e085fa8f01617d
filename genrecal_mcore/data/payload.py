"""Says which of the teacher's rows travel: pure arithmetic over answer spans."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from genrecal_mcore.data.types import AnswerSpan


@dataclass(frozen=True, kw_only=True, slots=True)
class RowSelection:
    """Rows of a microbatch `[b, s]`, in the order in which they travel: by sample, then by position."""

    sample: torch.Tensor
    """`[t]`"""
    position: torch.Tensor
    """`[t]`"""


def payload_rows(
    answer_spans: Sequence[Sequence[AnswerSpan]], lengths: Sequence[int], *, with_questions: bool
) -> RowSelection:
    """Select the rows of a microbatch that the student side needs.

    Without questions (stage 2): for each answer its boundary row and its n answer rows. With questions (stage
    1): every row of every sample, padding excluded.
    """
    rows: list[tuple[int, int]] = []
    for sample, (spans, length) in enumerate(zip(answer_spans, lengths, strict=True)):
        if with_questions:
            rows += [(sample, position) for position in range(length)]
        else:
            rows += [(sample, position) for start, end in spans for position in range(start - 1, end)]
    samples, positions = torch.tensor(rows, dtype=torch.int64).unbind(1)
    return RowSelection(sample=samples, position=positions)
