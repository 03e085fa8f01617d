import pytest

from genrecal_mcore.evaluation.scorers import score_match
from genrecal_mcore.evaluation.scorers.match import exact_match, normalised_match
from tests.unit.evaluation.scorers.cases import question

pytestmark = pytest.mark.evaluation


@pytest.mark.parametrize(
    ("prediction", "answer", "is_match"),
    [
        ("Yes", "yes", True),
        (" a  red\ncircle. ", "A red circle", True),
        ("no, it is a blue circle", "No, it is a blue circle.", True),
        ("no", "no, it is a blue circle.", False),
        ("no it is a blue circle", "no, it is a blue circle.", False),
        ("circle circle", "circle", False),
        ("", "yes", False),
    ],
)
def test_only_case_white_space_and_a_final_period_are_forgiven(
    prediction: str, answer: str, is_match: bool
) -> None:
    assert normalised_match(prediction, answer) is is_match


def test_an_exact_match_forgives_only_case_and_space_around() -> None:
    assert exact_match(" North \n", "north")
    assert not exact_match("north.", "north")


def test_any_of_several_true_answers_counts() -> None:
    asked = question("['bus', 'coach']")
    assert [score_match(text, asked).is_correct for text in ("Coach.", "bus", "train")] == [True, True, False]
    assert score_match("[a", question("[a")).is_correct
