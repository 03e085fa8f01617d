"""What a scorer returns."""

from collections.abc import Callable
from dataclasses import dataclass

from genrecal_mcore.evaluation.question import Question


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A model's answer, read and judged."""

    understood: str | None
    """What the rule took the answer to be; None where it found none."""
    is_correct: bool | None
    """None where no rule can tell, only a judge."""


Scorer = Callable[[str, Question], Verdict]
"""(prediction, question with a true answer) -> verdict; pure."""
