"""Says which of the teacher's rows travel: pure arithmetic over answer spans."""

from collections.abc import Sequence

import torch

from genrecal_mcore.data.types import AnswerSpan


def payload_rows(
    answer_spans: Sequence[Sequence[AnswerSpan]], lengths: Sequence[int], *, with_questions: bool
) -> torch.Tensor:
    """Return the positions `[n]` in a packed microbatch `[1, t]` of the rows that the student side needs.

    Without questions (stage 2): for each answer its boundary row and its n answer rows. With questions (stage
    1): every row of every sample.
    """
    rows: list[int] = []
    first = 0
    for spans, length in zip(answer_spans, lengths, strict=True):
        if with_questions:
            rows += range(first, first + length)
        else:
            rows += [first + position for start, end in spans for position in range(start - 1, end)]
        first += length
    return torch.tensor(rows, dtype=torch.int64)
