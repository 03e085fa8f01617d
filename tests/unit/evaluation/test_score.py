from pathlib import Path

import pytest

from genrecal_mcore.data import Sample, Turn
from genrecal_mcore.evaluation.score import KindScore, exact_match, kinds_of, score


def sample_of(answer: str, *, domain: str | None = None) -> Sample:
    return Sample(
        id="7",
        images=(Path("a.png"),),
        turns=(Turn(question="Is it?", answer=answer),),
        source="x",
        domain=domain,
    )


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
    assert exact_match(prediction, answer) is is_match


@pytest.mark.parametrize(
    ("answer", "domain", "kinds"),
    [
        ("Yes.", None, ("yes_no",)),
        ("no, it is blue.", None, ("yes_no",)),
        ("nothing", None, ("other",)),
        ("blue", "color", ("other", "color")),
        ("yes", "yes_no", ("yes_no",)),
    ],
)
def test_kind_is_the_form_of_the_true_answer_and_the_domain(
    answer: str, domain: str | None, kinds: tuple[str, ...]
) -> None:
    assert kinds_of(sample_of(answer, domain=domain)) == kinds


def test_scores_count_each_question_under_each_of_its_kinds() -> None:
    samples = [sample_of("yes"), sample_of("no"), sample_of("Red.", domain="color"), sample_of("round")]
    scores = score(["yes", "yes", "red", "round"], samples)
    assert (scores.num, scores.accuracy) == (4, 0.75)
    assert scores.by_kind == {
        "color": KindScore(num=1, num_correct=1),
        "other": KindScore(num=2, num_correct=2),
        "yes_no": KindScore(num=2, num_correct=1),
    }


def test_a_prediction_too_few_is_an_error_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="found 1 predictions for 2 samples"):
        score(["yes"], [sample_of("yes"), sample_of("no")])
