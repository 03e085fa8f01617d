"""From verdicts to a benchmark's scores: over all questions, in groups, and the number it reports; pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from genrecal_mcore.evaluation.question import Question
from genrecal_mcore.evaluation.scorers import Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """Questions that a rule could judge, and how many of them are right."""

    num: int
    num_correct: int

    @property
    def accuracy(self) -> float:
        """Return the share of correct answers, 0 to 1."""
        return self.num_correct / self.num


Groups = Mapping[str, Mapping[str, Tally]]
"""Tallies by column, then by value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reported:
    """The number that a benchmark reports."""

    value: float | None
    """0 to 1; None where no rule could judge anything."""
    text: str
    """How it comes about."""
    num: int
    """Questions behind it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkScores:
    """What a benchmark says of a model."""

    benchmark: str
    reported: Reported
    all: Tally
    groups: Groups
    num_left_out: int
    """Broken rows."""
    num_open: int
    """Answers that only a judge can judge; they are in no tally."""
    num_cut: int
    """Answers that had not ended at the last token allowed."""

    def as_json(self) -> dict[str, Any]:
        """Return plain dicts, accuracies included."""
        groups = {
            column: {value: _tally_as_json(tally) for value, tally in tallies.items()}
            for column, tallies in self.groups.items()
        }
        return asdict(self) | {"all": _tally_as_json(self.all), "groups": groups}


def _tally_as_json(tally: Tally) -> dict[str, float | None]:
    return {**asdict(tally), "accuracy": tally.accuracy if tally.num else None}


@dataclass(frozen=True, kw_only=True, slots=True)
class Headline:
    """How the one number that a benchmark reports comes about."""

    column: str | None = None
    """None, or where there is no such column, takes the mean over all questions."""
    value: str | None = None
    """Takes the mean over the questions of this value; None takes that over the column's values."""

    @property
    def text(self) -> str:
        """Say it in words."""
        if self.column is None:
            return "mean over questions"
        return f"mean over each {self.column}" if self.value is None else f"{self.column} {self.value}"

    def of(self, total: Tally, groups: Groups) -> Reported:
        """Return the number as it comes about in these groups."""
        if not total.num:
            return Reported(value=None, text=self.text, num=0)
        tallies = groups.get(self.column or "", {})
        if not tallies or self.value not in (None, *tallies):
            return Reported(value=total.accuracy, text=Headline().text, num=total.num)
        if self.value is not None:
            chosen = tallies[self.value]
            return Reported(value=chosen.accuracy, text=self.text, num=chosen.num)
        mean = fmean(tally.accuracy for tally in tallies.values())
        return Reported(value=mean, text=self.text, num=total.num)


def in_all_rotations(
    questions: Sequence[Question], verdicts: Sequence[Verdict]
) -> tuple[list[Question], list[Verdict]]:
    """Return the unrotated questions, each right only when it is so in every rotation of its options.

    A question that is asked once stays as it is. Source: `mcq_circular_eval` in
    `vlmeval/dataset/utils/multiple_choice.py` of VLMEvalKit.
    """
    correct_of: dict[str, list[bool]] = {}
    for question, verdict in zip(questions, verdicts, strict=True):
        correct_of.setdefault(question.rotation_of or question.index, []).append(bool(verdict.is_correct))
    pairs = [
        (question, Verdict(understood=verdict.understood, is_correct=all(correct_of[question.index])))
        for question, verdict in zip(questions, verdicts, strict=True)
        if question.rotation_of in (None, question.index)
    ]
    return [question for question, _ in pairs], [verdict for _, verdict in pairs]


def tally(verdicts: Iterable[Verdict]) -> Tally:
    """Count the verdicts that say whether an answer is right."""
    known = [verdict.is_correct for verdict in verdicts if verdict.is_correct is not None]
    return Tally(num=len(known), num_correct=sum(known))


def tally_groups(questions: Sequence[Question], verdicts: Sequence[Verdict]) -> dict[str, dict[str, Tally]]:
    """Count by each column that groups questions and each of its values; none of them is empty."""
    members: dict[str, dict[str, list[Verdict]]] = {}
    for question, verdict in zip(questions, verdicts, strict=True):
        for column, value in question.groups:
            members.setdefault(column, {}).setdefault(value, []).append(verdict)
    tallies = {
        column: {value: tally(of_value) for value, of_value in sorted(values.items())}
        for column, values in members.items()
    }
    return {column: {v: t for v, t in values.items() if t.num} for column, values in tallies.items()}
