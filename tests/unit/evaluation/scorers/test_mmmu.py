"""Cases of `mmmu/utils/eval_utils.py` and `mmmu-pro/evaluate.py` of MMMU-Benchmark/MMMU, by hand."""

import pytest

from genrecal_mcore.evaluation.scorers import score_mmmu, score_mmmu_pro
from genrecal_mcore.evaluation.scorers.mmmu import last_option, open_answers
from tests.unit.evaluation.scorers.cases import question

pytestmark = pytest.mark.evaluation

OPTIONS = {"A": "iron", "B": "copper wire", "C": "zinc", "D": "tin"}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("'C'", "C"),
        ("(A) or rather (D)", "D"),
        ("(A), though B is close", "A"),
        ("First A and then C fits", "C"),
        ("I think that it must be Copper Wire here", "B"),
        ("zinc rather than tin is what we see here", "D"),
        ("copper wire", None),
        ("Because", None),
        ("", None),
    ],
)
def test_the_option_named_last_counts(text: str, letter: str | None) -> None:
    assert last_option(text, OPTIONS) == letter


def test_an_answer_that_names_no_option_is_wrong_and_not_drawn() -> None:
    asked = question("A", "iron", "tin")
    assert {score_mmmu("who knows", asked).is_correct for _ in range(20)} == {False}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A looks good, B too. Answer: $B", "B"),
        ("Answer: A\nAnswer: C", "C"),
        ("Answer: copper (B) or zinc (C)", "C"),
        ("It is D. because of its colour", "D"),
        ("Her DNA is long", None),
    ],
)
def test_mmmu_pro_looks_behind_the_last_answer_first(text: str, letter: str | None) -> None:
    asked = question("D", "iron", "copper wire", "zinc", "tin")
    assert score_mmmu_pro(text, asked).understood == letter


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("42", {42.0}),
        ("The answer is 1,234.567", {1234.57}),
        ("x = 3\nSo the result is 5 cm", {"5 cm", 5.0}),
        ("area = 12.5", {12.5}),
        ("the shape is a trapezoid.", {"a trapezoid"}),
        ("so it is x", {" x", "x "}),
    ],
)
def test_open_answers_are_key_phrases_and_their_numbers(text: str, meant: set[str | float]) -> None:
    assert meant <= open_answers(text)


@pytest.mark.parametrize(
    ("prediction", "answer", "is_correct"),
    [
        ("42", "42", True),
        ("It costs $42.004 so the answer is 42.004", "42.00", True),
        ("The answer is 43", "42", False),
        ("I read 42 first. The answer is 43", "42", False),
        ("The wall is made of Red Brick", "brick", True),
        ("probably 1/8", "['1/8', '0.125']", True),
        ("equals = 0.125", "['1/8', '0.125']", True),
        ("1,000", "1000", True),
        ("2e3", "2000", True),
        ("a cat", "t", False),
        ("the answer is t", "t", True),
        ("it is point t on top", "t", True),
        ("", "42", False),
    ],
)
def test_an_open_answer_is_right_when_a_true_one_is_among_them(
    prediction: str, answer: str, is_correct: bool
) -> None:
    assert score_mmmu(prediction, question(answer)).is_correct is is_correct
