"""Which option an answer in free text chooses, by VLMEvalKit's rules; two options named are none.

Source: `can_infer_option` and `can_infer_text` in `vlmeval/utils/matching_util.py` of VLMEvalKit, with
`exact_matching` in place of a language model: an answer that no rule reads is wrong.
"""

import re
from collections.abc import Mapping

from genrecal_mcore.data import BrokenSample
from genrecal_mcore.evaluation.question import Question
from genrecal_mcore.evaluation.scorers.match import score_match
from genrecal_mcore.evaluation.scorers.verdict import Verdict

LAST_WORDS = 4
"""A letter counts among the last words only: before them it is rather an article."""

_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_ANSWER_IS = re.compile(r"[Aa]nswer\s+is\s+\**([A-Z])\b")


def score_choice(prediction: str, question: Question) -> Verdict:
    """Score the option chosen; a question without options is scored by `score_match`.

    The latter is how RealWorldQA's open questions are scored: `realworldqa_process_results` of lmms-eval.
    """
    if not question.options:
        return score_match(prediction, question)
    letter = chosen_option(prediction, question.options)
    return Verdict(understood=letter, is_correct=letter == question.answer)


def check_answer_is_option(question: Question) -> None:
    """Raise `BrokenSample` when the true answer is none of the options that there are."""
    if question.options and question.answer not in question.options:
        raise BrokenSample(
            f"the answer {question.answer!r} is not one of the options {', '.join(question.options)}"
        )


def check_is_choice(question: Question) -> None:
    """Raise `BrokenSample` when there are no options, or the true answer is none of them."""
    if not question.options:
        raise BrokenSample("the columns A, B, ... hold no options")
    check_answer_is_option(question)


def chosen_option(text: str, options: Mapping[str, str]) -> str | None:
    """Return the letter of the option that a text chooses; None when it names none, or several.

    In this order: the one letter among its words, marks aside, when among the last four ("B", "(B)", "it is
    B."); "answer is B"; the one option whose text stands in it.

    Deviates from the source in "answer is": there the letter may be small and begin a word, so that "the
    answer is a dog" chooses A. Refusals of particular services are not looked for.
    """
    words = text.translate(_MARKS).split()
    named = [letter for letter in options if letter in words]
    if len(named) == 1 and words.index(named[0]) >= len(words) - LAST_WORDS:
        return named[0]
    stated = _ANSWER_IS.search(text)
    if stated and stated[1] in options:
        return stated[1]
    return _quoted_option(text.lower(), options)


def _quoted_option(text: str, options: Mapping[str, str]) -> str | None:
    """Return the one option whose text stands in `text`, which must not be twice as long as all of them."""
    if len(text) > 2 * sum(map(len, options.values())):
        return None
    quoted = [letter for letter, option in options.items() if option.lower() in text]
    return quoted[0] if len(quoted) == 1 else None
