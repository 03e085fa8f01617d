"""Section 5.1 of ChartQA (arXiv:2203.10244), as `relaxed_correctness` in VLMEvalKit and pix2struct has it."""

import pytest

from genrecal_mcore.evaluation.scorers import score_relaxed
from genrecal_mcore.evaluation.scorers.chartqa import is_relaxed_match
from tests.unit.evaluation.scorers.cases import question

pytestmark = pytest.mark.evaluation


@pytest.mark.parametrize(
    ("prediction", "answer", "is_match"),
    [
        ("105", "100", True),
        ("95", "100", True),
        ("105.1", "100", False),
        ("-100", "100", False),
        ("-96", "-100", True),
        ("52%", "0.5", True),
        ("50%", "50", False),
        ("14.", "14", True),
        ("Blue", "blue", True),
        ("blue bar", "blue", False),
        ("1,000", "1000", False),
        ("0", "0", True),
        ("0.01", "0", False),
        ("", "5", False),
    ],
)
def test_numbers_may_be_five_percent_off_and_texts_not(prediction: str, answer: str, is_match: bool) -> None:
    assert is_relaxed_match(prediction, answer) is is_match


def test_any_of_several_true_answers_counts() -> None:
    asked = question("['10', 'ten']")
    assert [score_relaxed(text, asked).is_correct for text in (" 10.4\n", "Ten", "11")] == [True, True, False]
