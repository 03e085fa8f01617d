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
        rows += [first + position for position in sample_rows(spans, length, with_questions=with_questions)]
        first += length
    return torch.tensor(rows, dtype=torch.int64)


def sample_rows(spans: Sequence[AnswerSpan], length: int, *, with_questions: bool) -> Sequence[int]:
    """Return the same of one sample of `length` tokens, counted from its first token."""
    if with_questions:
        return range(length)
    return [position for start, end in spans for position in range(start - 1, end)]


def wanted_among_held(
    spans: Sequence[AnswerSpan], length: int, *, holds_questions: bool, with_questions: bool
) -> Sequence[int]:
    """Return which of the rows of a sample that are at hand are the ones that are asked for."""
    assert holds_questions or not with_questions
    if holds_questions and not with_questions:
        return sample_rows(spans, length, with_questions=False)
    return range(len(sample_rows(spans, length, with_questions=with_questions)))


def num_sample_rows(answer_tokens: int, num_answers: int, *, tokens: int, with_questions: bool) -> int:
    """Return how many these are, from a sample's counts alone."""
    return tokens if with_questions else answer_tokens + num_answers
