"""Says where two models read the same token ids of a sample."""

from typing import Literal, get_args

from genrecal_mcore.data.types import RenderedSample

SharedTokens = Literal["all", "answers", "none"]
"""Every token, those of the answers alone, or not even those."""
SHARED_TOKENS: tuple[SharedTokens, ...] = get_args(SharedTokens)


def shared_tokens(teacher: RenderedSample, student: RenderedSample) -> SharedTokens:
    """Return how far two renderings of a sample hold the same token ids."""
    if teacher.input_ids.tolist() == student.input_ids.tolist():
        return "all"
    return "answers" if answers_of(teacher) == answers_of(student) else "none"


def answers_of(rendered: RenderedSample) -> list[list[int]]:
    """Return the token ids of each answer, its end-of-turn token included."""
    return [rendered.input_ids[start:end].tolist() for start, end in rendered.answer_spans]
