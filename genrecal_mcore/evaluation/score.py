"""Compares predicted answers with true ones: pure text, no model.

Exact match is strict on purpose: a sentence answer counts only when the whole sentence is right.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from genrecal_mcore.data import Sample

YES_NO = "yes_no"
OTHER = "other"


@dataclass(frozen=True, kw_only=True, slots=True)
class KindScore:
    """Exact matches among the questions of one kind."""

    num: int
    num_correct: int

    @property
    def accuracy(self) -> float:
        """Return the share of correct answers, 0 to 1."""
        return self.num_correct / self.num


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Exact match over all questions and over those of each kind."""

    num: int
    accuracy: float
    """Share of correct answers, 0 to 1."""
    by_kind: dict[str, KindScore]
    """By `yes_no` and `other`, and by the name of each domain that the samples name."""


def normalise(text: str) -> str:
    """Return the text in lower case, white space collapsed, without a final period."""
    return " ".join(text.casefold().split()).removesuffix(".").rstrip()


def exact_match(prediction: str, answer: str) -> bool:
    """Return whether both texts are equal but for case, white space and a final period."""
    return normalise(prediction) == normalise(answer)


def kinds_of(sample: Sample) -> tuple[str, ...]:
    """Return the kinds that a sample's last question counts under: `yes_no` or `other`, and its domain.

    A question is of kind `yes_no` when its true answer starts with that word, as in "no, it is blue."
    """
    words = normalise(sample.turns[-1].answer).replace(",", " ").split()
    form = YES_NO if words[:1] in (["yes"], ["no"]) else OTHER
    return (form,) if sample.domain in (None, form) else (form, str(sample.domain))


def score(predictions: Sequence[str], samples: Sequence[Sample]) -> Scores:
    """Return exact-match scores of one prediction for the last answer of each sample.

    Raises `ValueError` when there is nothing to score, or the two differ in number.
    """
    if not samples or len(predictions) != len(samples):
        raise ValueError(
            f"expected one prediction for each of at least one sample, found {len(predictions)} predictions "
            f"for {len(samples)} samples"
        )
    correct_of_kind: dict[str, list[bool]] = {}
    corrects = [exact_match(p, s.turns[-1].answer) for p, s in zip(predictions, samples, strict=True)]
    for sample, is_correct in zip(samples, corrects, strict=True):
        for kind in kinds_of(sample):
            correct_of_kind.setdefault(kind, []).append(is_correct)
    by_kind = {k: KindScore(num=len(c), num_correct=sum(c)) for k, c in sorted(correct_of_kind.items())}
    return Scores(num=len(corrects), accuracy=sum(corrects) / len(corrects), by_kind=by_kind)
