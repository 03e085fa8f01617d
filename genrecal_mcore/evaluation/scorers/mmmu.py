"""MMMU's own rules for options and open answers, and MMMU-Pro's.

Source: `parse_multi_choice_response`, `parse_open_response`, `eval_open` in `mmmu/utils/eval_utils.py`, and
`parse_multi_choice_response` in `mmmu-pro/evaluate.py` of MMMU-Benchmark/MMMU.

Deviates from both: where they draw an option because the answer names none, it is wrong. A score must be the
same twice, and luck is no merit.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from genrecal_mcore.evaluation.question import Question
from genrecal_mcore.evaluation.scorers.match import true_answers
from genrecal_mcore.evaluation.scorers.verdict import Verdict

MIN_WORDS_TO_QUOTE = 6
"""Only an answer this long is searched for the text of an option."""

_ANSWER = "Answer:"
_LETTERS = ("({})", " {} ")
_LETTERS_PRO = ("({})", " {} ", " {}.")
"""How an option is named, tried in turn. MMMU-Pro's source also takes the end of a word, as in "DNA "."""
_KEY_WORDS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)


def score_mmmu(prediction: str, question: Question) -> Verdict:
    """Score an option by `last_option`, an open answer by `open_answers`."""
    if not question.options:
        return _score_open(prediction, question)
    letter = last_option(prediction, question.options)
    return Verdict(understood=letter, is_correct=letter == question.answer)


def score_mmmu_pro(prediction: str, question: Question) -> Verdict:
    """Score the one letter behind the last "Answer:"; without one, the option by `last_option`."""
    tail = prediction.rpartition(_ANSWER)[2] if _ANSWER in prediction else ""
    named = [letter for letter in question.options if letter in tail]
    letter = named[0] if len(named) == 1 else last_option(prediction, question.options, forms=_LETTERS_PRO)
    return Verdict(understood=letter, is_correct=letter == question.answer)


def last_option(text: str, options: Mapping[str, str], *, forms: Sequence[str] = _LETTERS) -> str | None:
    """Return the option that a text names last, by its letter or else by its text; None when it names none.

    Each form is looked for only when those before it are not there. Marks around the text are dropped first.
    """
    for mark in ",.!?;:'":
        text = text.strip(mark)
    text = f" {text} "
    ways = [{letter: text.rfind(form.format(letter)) for letter in options} for form in forms]
    if len(text.split()) >= MIN_WORDS_TO_QUOTE:
        ways.append({letter: text.lower().rfind(option.lower()) for letter, option in options.items()})
    for places in ways:
        if max(places.values()) >= 0:
            return max(places, key=places.__getitem__)
    return None


def open_answers(text: str) -> set[str | float]:
    """Return what an answer in free text may mean: its key phrases and the numbers in them, normalised."""
    phrases = _key_phrases(text.strip().strip(".").lower())
    numbers = [number for phrase in phrases for form in _NUMBERS for number in form.findall(phrase)]
    return _normalised([*phrases, *numbers])


def _score_open(prediction: str, question: Question) -> Verdict:
    true, found = _normalised(true_answers(question)), open_answers(prediction)
    texts = [answer for answer in true if isinstance(answer, str)]
    is_correct = any(
        any(answer in phrase for answer in texts) if isinstance(phrase, str) else phrase in true
        for phrase in found
    )
    return Verdict(understood="; ".join(sorted(map(str, found))), is_correct=is_correct)


def _key_phrases(text: str) -> list[str]:
    """Return the shortest phrase behind a key word of each line, or the whole text when there is none.

    The last line may also be an equation. The source splits sentences at capitals too, but has made all
    letters small before.
    """
    *lines, last = text.split("\n")
    with_keys = [(line, _KEY_WORDS) for line in lines] + [(last, (*_KEY_WORDS, "="))]
    phrases = [_shortest_tail(line, keys) for line, keys in with_keys]
    return [phrase for phrase in phrases if phrase not in ("", *":,.!?;'")] or [text]


def _shortest_tail(line: str, keys: Sequence[str]) -> str:
    """Return the shortest text behind the last of each key, tried in order; nothing gives way to the next."""
    shortest = ""
    for tail in (line.rpartition(key)[2].strip() for key in keys if key in line):
        if not shortest or len(tail) < len(shortest):
            shortest = tail
    return shortest


def _normalised(texts: Iterable[str]) -> set[str | float]:
    """Return numbers rounded to two digits, other texts in small letters; a single one between spaces.

    The space keeps an "a" from being found in every word.
    """
    normalised: set[str | float] = set()
    for text in map(str.strip, texts):
        try:
            normalised.add(round(float(text.replace(",", "")), 2))
        except ValueError:
            small = text.lower()
            normalised |= {f" {small}", f"{small} "} if len(small) == 1 else {small}
    return normalised
