"""Cases of `extract_answer.py` and `calculate_score.py` of lupantech/MathVista, worked out by hand."""

import pytest

from genrecal_mcore.evaluation.scorers import check_mathvista, score_mathvista
from genrecal_mcore.evaluation.scorers.mathvista import choice_meant, edit_distance
from tests.unit.evaluation.scorers.cases import question

pytestmark = pytest.mark.evaluation

CHOICES = ["larger than", "equal to", "smaller than"]


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("equal to", "equal to"),
        ("B", "equal to"),
        ("(C) smaller than", "smaller than"),
        ("The correct answer is B, since both are flat", "equal to"),
        ("smaller then", "smaller than"),
        ("equals", "equal to"),
        ("Both derivatives have the same sign, so they should not differ", None),
        ("", None),
    ],
)
def test_a_choice_is_meant_by_letter_text_or_likeness(text: str, choice: str | None) -> None:
    assert choice_meant(text, CHOICES) == choice


def test_distance_counts_letters_put_in_left_out_and_replaced() -> None:
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == edit_distance("abc", "") == 3
    assert edit_distance("flaw", "lawn") == 2


@pytest.mark.parametrize(
    ("prediction", "form", "answer", "precision", "is_correct"),
    [
        ("14", "integer", "14", "", True),
        (" 14.0 ", "integer", "14", "", True),
        ("15", "integer", "14", "", False),
        ('The answer is "14".', "integer", "14", "", True),
        ("The number missing is 14.", "integer", "14", "", None),
        ("1.23", "float", "1.2", "1.0", True),
        ("1.26", "float", "1.2", "1.0", False),
        ("1.234", "float", "1.23", "", True),
        ("about 1.2", "float", "1.2", "1.0", None),
        ("[2007, 2008]", "list", "[2007, 2008]", "", True),
        ("[2008, 2007]", "list", "[2007, 2008]", "", False),
        ("2007 and 2008", "list", "[2007, 2008]", "", None),
        ("1e999", "integer", "14", "", None),
    ],
)
def test_an_answer_is_scored_where_a_rule_can_read_it(
    prediction: str, form: str, answer: str, precision: str, is_correct: bool | None
) -> None:
    fields = {"question_type": "free_form", "answer_type": form} | (
        {"precision": precision} if precision else {}
    )
    assert score_mathvista(prediction, question(answer, **fields)).is_correct is is_correct


@pytest.mark.parametrize(
    ("prediction", "is_correct"), [("C", True), ("A", False), ("It depends on which point is meant", None)]
)
def test_a_choice_is_right_when_it_is_the_true_one(prediction: str, is_correct: bool | None) -> None:
    for answer, fields in (("smaller than", {}), ("smaller", {"answer_option": "C"})):
        asked = question(answer, question_type="multi_choice", choices=str(CHOICES), **fields)
        check_mathvista(asked)
        assert score_mathvista(prediction, asked).is_correct is is_correct
