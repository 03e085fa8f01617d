"""Whole answers compared as text."""

from genrecal_mcore.evaluation.field_lists import split_list
from genrecal_mcore.evaluation.question import Question
from genrecal_mcore.evaluation.scorers.verdict import Verdict


def normalise(text: str) -> str:
    """Return the text in lower case, white space collapsed, without a final period."""
    return " ".join(text.casefold().split()).removesuffix(".").rstrip()


def exact_match(prediction: str, answer: str) -> bool:
    """Return whether both are equal but for case and white space around them.

    Source: `process_line` with `method='accuracy'` in `vlmeval/dataset/utils/vqa_eval.py` of VLMEvalKit.
    """
    return prediction.strip().lower() == answer.strip().lower()


def normalised_match(prediction: str, answer: str) -> bool:
    """Return whether both are equal but for case, white space and a final period.

    Strict on purpose: a sentence counts only when the whole sentence is right. Source, but for white space:
    `realworldqa_process_results` in `lmms_eval/tasks/realworldqa/utils.py` of lmms-eval.
    """
    return normalise(prediction) == normalise(answer)


def score_match(prediction: str, question: Question) -> Verdict:
    """Score by `normalised_match` with any of the true answers."""
    is_correct = any(normalised_match(prediction, answer) for answer in true_answers(question))
    return Verdict(understood=normalise(prediction), is_correct=is_correct)


def true_answers(question: Question) -> list[str]:
    """Return the answers that count as true: one, or those of a list."""
    assert question.answer is not None
    return split_list(question.answer)
