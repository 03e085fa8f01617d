"""MathVista's answers, as far as rules can read them; what needs a language model to be found is left open.

Source: `extract_answer` in `evaluation/extract_answer.py` and `normalize_extracted_answer` in
`evaluation/calculate_score.py` of lupantech/MathVista; `post_check` in `vlmeval/dataset/utils/mathvista.py`
of VLMEvalKit, whose file has the columns read here.
"""

import ast
import re
from collections.abc import Callable, Sequence
from string import ascii_uppercase

from genrecal_mcore.data import BrokenSample
from genrecal_mcore.evaluation.question import Question
from genrecal_mcore.evaluation.scorers.choice import chosen_option
from genrecal_mcore.evaluation.scorers.match import exact_match
from genrecal_mcore.evaluation.scorers.verdict import Verdict

_STATED = re.compile(r'[Tt]he answer is "(.*)"\.?')


def score_mathvista(prediction: str, question: Question) -> Verdict:
    """Score an answer by the form that the question asks for; `is_correct` is None where it cannot be read.

    An answer is read when it is of that form, or states one as `The answer is "..."`.
    """
    assert question.answer is not None
    stated = _STATED.search(prediction)
    text = (stated[1] if stated else prediction).strip()
    if question.fields["question_type"] == "multi_choice":
        choices = _choices(question)
        found, true = choice_meant(text, choices), _true_choice(question, choices)
    else:
        read = _FORMS[question.fields["answer_type"]]
        found, true = read(text, question), str(read(question.answer, question))
    return Verdict(understood=found, is_correct=None if found is None else found == true)


def check_mathvista(question: Question) -> None:
    """Raise `BrokenSample` when the columns do not say which form an answer has."""
    kind = question.fields.get("question_type")
    if kind == "multi_choice":
        try:
            choices = _choices(question)
        except (KeyError, ValueError, SyntaxError, TypeError):
            raise BrokenSample("choices must be a list of texts as Python writes it") from None
        true = _true_choice(question, choices)
        if true not in choices:
            raise BrokenSample(f"the answer {true!r} is not one of the choices {choices}")
        return
    form = question.fields.get("answer_type")
    if kind != "free_form" or form not in _FORMS:
        raise BrokenSample(
            f"question_type {kind!r} with answer_type {form!r} is not known; expected multi_choice, or "
            f"free_form with one of {', '.join(_FORMS)}"
        )
    assert question.answer is not None
    if _FORMS[form](question.answer, question) is None:
        raise BrokenSample(f"the answer {question.answer!r} is not of the answer_type {form}")


def choice_meant(text: str, choices: Sequence[str]) -> str | None:
    """Return the choice that a text names by letter or words; a short text means the most similar one.

    Similar as the fewest letters to change. Short is what is no longer than the longest choice: the source
    compares what a language model has cut out of the answer.
    """
    letter = chosen_option(text, dict(zip(ascii_uppercase, choices, strict=False)))
    if letter is not None:
        return choices[ascii_uppercase.index(letter)]
    if not text or len(text) > max(map(len, choices)):
        return None
    return min(choices, key=lambda choice: edit_distance(text, choice))


def edit_distance(one: str, other: str) -> int:
    """Return how many letters must be put in, left out or replaced to make one text the other."""
    distances = list(range(len(other) + 1))  # from the empty text to each beginning of `other`
    for row, letter in enumerate(one, 1):
        diagonal, distances[0] = distances[0], row
        for column, other_letter in enumerate(other, 1):
            cheapest = min(
                diagonal + (letter != other_letter), distances[column] + 1, distances[column - 1] + 1
            )
            diagonal, distances[column] = distances[column], cheapest
    return distances[-1]


def _choices(question: Question) -> list[str]:
    return [str(choice) for choice in ast.literal_eval(question.fields["choices"])]


def _true_choice(question: Question, choices: Sequence[str]) -> str | None:
    """Return the choice that the column `answer_option` names by its letter, or else the answer."""
    letter = question.fields.get("answer_option")
    return dict(zip(ascii_uppercase, choices, strict=False)).get(letter or "", question.answer)


def _integer(text: str, question: Question) -> str | None:
    del question
    try:
        return str(int(float(text)))
    except (ValueError, OverflowError):
        return None


def _float(text: str, question: Question) -> str | None:
    """Return the number rounded to the digits that the question asks for, or else the answer has."""
    assert question.answer is not None
    digits = len(question.answer.partition(".")[2])
    try:
        return str(round(float(text), int(float(question.fields.get("precision", digits)))))
    except (ValueError, OverflowError):
        return None


def _list(text: str, question: Question) -> str | None:
    del question
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
    return str(found) if isinstance(found, list) else None


def _text(text: str, question: Question) -> str | None:
    """Return the answer where the whole text is it: a longer text may say it in other words."""
    assert question.answer is not None
    return question.answer if exact_match(text, question.answer) else None


_FORMS: dict[str, Callable[[str, Question], str | None]] = {
    "integer": _integer,
    "float": _float,
    "list": _list,
    "text": _text,
}
