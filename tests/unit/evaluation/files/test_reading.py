import pytest

from genrecal_mcore.data import Turn
from genrecal_mcore.evaluation.benchmarks import CHOICE
from genrecal_mcore.evaluation.files import Reading
from genrecal_mcore.evaluation.question import LeftOut, Question

pytestmark = pytest.mark.evaluation


def reading(num_questions: int, num_left_out: int) -> Reading:
    questions = [
        Question(index=str(n), number=n, turns=(Turn(question="?", answer=""),), images=(), answer="A")
        for n in range(num_questions)
    ]
    broken = [
        LeftOut(index=f"x{n}", number=n + 1, reason=f"the image {n}.png does not exist")
        for n in range(num_left_out)
    ]
    return Reading(benchmark=CHOICE, questions=tuple(questions), left_out=tuple(broken))


def test_broken_rows_up_to_the_share_are_accepted() -> None:
    reading(9, 1).check_share("a.tsv", max_share=0.1)
    with pytest.raises(
        ValueError, match=r"a\.tsv: 1 of 9 rows are broken, .* \(0\.1\) allows: 1 x the image N"
    ):
        reading(8, 1).check_share("a.tsv", max_share=0.1)


def test_the_error_names_the_first_rows_and_what_to_do() -> None:
    message = r"The first: row 1 \(index 'x0'\): the image 0.png does not exist; row 2 .* raise the share"
    with pytest.raises(ValueError, match=message):
        reading(1, 3).check_share("a.tsv", max_share=0.5)


def test_a_file_without_a_question_is_refused_whatever_the_share() -> None:
    with pytest.raises(ValueError, match="2 of 2 rows are broken"):
        reading(0, 2).check_share("a.tsv", max_share=1.0)
    with pytest.raises(ValueError, match="holds no rows"):
        reading(0, 0).check_share("a.tsv", max_share=1.0)
