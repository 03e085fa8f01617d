"""ChartQA's relaxed accuracy.

Source: section 5.1 of arXiv:2203.10244; `relaxed_correctness` in `vlmeval/dataset/utils/vqa_eval.py` of
VLMEvalKit, which has it from `pix2struct/metrics.py` of google-research/pix2struct.
"""

from genrecal_mcore.evaluation.question import Question
from genrecal_mcore.evaluation.scorers.match import exact_match, true_answers
from genrecal_mcore.evaluation.scorers.verdict import Verdict

MAX_RELATIVE_CHANGE = 0.05


def score_relaxed(prediction: str, question: Question) -> Verdict:
    """Score by `is_relaxed_match` with any of the true answers."""
    text = prediction.strip()
    is_correct = any(is_relaxed_match(text, answer) for answer in true_answers(question))
    return Verdict(understood=text, is_correct=is_correct)


def is_relaxed_match(prediction: str, answer: str) -> bool:
    """Return whether two numbers differ by 5 % of the true one at most, or two texts are equal.

    A percentage is its hundredth. A true answer of 0 is compared as text: nothing is within 5 % of it.
    """
    found, true = _number(prediction), _number(answer)
    if found is None or not true:
        return exact_match(prediction, answer)
    return abs(found - true) / abs(true) <= MAX_RELATIVE_CHANGE


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
