"""Questions for the scorers' tests."""

from genrecal_mcore.data import Turn
from genrecal_mcore.evaluation.question import Question


def question(answer: str, *options: str, **fields: str) -> Question:
    """Return a question with a true answer, options A, B, ... and other columns."""
    return Question(
        index="1",
        number=1,
        turns=(Turn(question="Which?", answer=""),),
        images=(),
        answer=answer,
        options=dict(zip("ABCDEFGHIJ", options, strict=False)),
        fields=fields,
    )
