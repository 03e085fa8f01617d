"""Cases of `can_infer` in VLMEvalKit's `vlmeval/utils/matching_util.py`, worked out by hand."""

import pytest

from genrecal_mcore.evaluation.scorers import score_choice
from genrecal_mcore.evaluation.scorers.choice import chosen_option
from tests.unit.evaluation.scorers.cases import question

pytestmark = pytest.mark.evaluation

OPTIONS = {"A": "a red bus", "B": "a blue bus", "C": "a dog"}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("[B]:", "B"),
        ("B. a blue bus", "B"),
        ("It is B", "B"),
        ("The best choice here is (C).", "C"),
        ("The correct answer is **B**. Here is why: option A is red, and C has no wheels.", "B"),
        ("answer is C, not A", "C"),
        ("a blue bus", "B"),
        ("I see a Blue Bus.", "B"),
        ("A Blue Bus", "A"),
        ("A big animal that looks like a dog", "C"),
        ("A or B", None),
        ("a red bus and a blue bus", None),
        ("E", None),
        ("b", None),
        ("", None),
    ],
)
def test_the_option_is_the_one_letter_or_the_one_text_that_is_named(text: str, letter: str | None) -> None:
    assert chosen_option(text, OPTIONS) == letter


def test_a_long_text_is_not_searched_for_the_words_of_an_option() -> None:
    options = {"A": "red", "B": "blue"}
    assert chosen_option("it looks red", options) == "A"
    assert chosen_option("it looks rather red", options) is None


def test_a_letter_of_a_word_is_no_option() -> None:
    """Deviates from the source, which takes "the answer is a dog" for A."""
    assert chosen_option("The answer is a big white dog", {"A": "cat", "B": "dog or wolf or fox"}) is None


def test_more_than_four_options_are_told_apart() -> None:
    assert chosen_option("J", dict(zip("ABCDEFGHIJ", "qrstuvwxyz", strict=True))) == "J"


def test_a_choice_is_right_when_it_is_the_true_one() -> None:
    asked = question("B", "cat", "dog")
    assert score_choice("B", asked).is_correct is True
    assert score_choice("A", asked).is_correct is False
    assert score_choice("neither", asked).is_correct is False
    assert score_choice("it is a dog", asked).understood == "B"


@pytest.mark.parametrize(("prediction", "is_correct"), [("12", True), ("Twelve", False), (" 12.", True)])
def test_without_options_the_whole_answer_counts(prediction: str, is_correct: bool) -> None:
    assert score_choice(prediction, question("12")).is_correct is is_correct
